//! A mail server that keeps what it is sent: SMTP (RFC 5321), with STARTTLS or TLS and AUTH PLAIN where the test wants them.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod};
use tempfile::TempDir;

use crate::pki::Authority;

const IDLE: Duration = Duration::from_secs(60);

/// How connections are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    None,
    StartTls,
    Tls,
}

/// One mail as it came.
#[derive(Debug, Clone)]
pub struct ReceivedMail {
    pub from: String,
    pub to: Vec<String>,
    /// Head and body, with LF.
    pub data: String,
    /// The user who logged in: RFC 4616's message, base64.
    pub login: Option<String>,
    pub encrypted: bool,
    /// Whether it was answered with 250.
    pub accepted: bool,
    pub at: Instant,
}

/// The running server. Its thread ends with the test's process.
pub struct MailServer {
    address: SocketAddr,
    security: Security,
    shared: Arc<Shared>,
    directory: TempDir,
}

struct Shared {
    security: Security,
    acceptor: SslAcceptor,
    mails: Mutex<Vec<ReceivedMail>>,
    /// Answers to the next mails, in place of 250.
    refusals: Mutex<VecDeque<&'static str>>,
    /// Part of an address that is never taken, and the answer to it.
    refused_reader: Mutex<Option<(&'static str, &'static str)>>,
}

impl ReceivedMail {
    /// A field of the head.
    pub fn head(&self, field: &str) -> Option<&str> {
        let head = self.data.split("\n\n").next()?;
        head.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "))
    }
}

impl MailServer {
    pub fn start(security: Security) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let authority = Authority::new("Test CA for mail")?;
        std::fs::write(directory.path().join("root.pem"), authority.pem()?)?;
        let files = authority.issue_server(&["127.0.0.1"])?.write(directory.path(), "server")?;
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
        acceptor.set_certificate_chain_file(&files.certificate)?;
        acceptor.set_private_key_file(&files.key, SslFiletype::PEM)?;
        let shared = Arc::new(Shared {
            security,
            acceptor: acceptor.build(),
            mails: Mutex::default(),
            refusals: Mutex::default(),
            refused_reader: Mutex::default(),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind the mail server")?;
        let address = listener.local_addr()?;
        let share = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let share = Arc::clone(&share);
                std::thread::spawn(move || share.serve(stream));
            }
        });
        Ok(Self { address, security, shared, directory })
    }

    /// What goes into `notify.smtp_url`.
    pub fn url(&self, user: &str) -> String {
        let scheme = if self.security == Security::Tls { "smtps" } else { "smtp" };
        let user = if user.is_empty() { String::new() } else { format!("{user}@") };
        format!("{scheme}://{user}{}", self.address)
    }

    /// What goes into `notify.smtp_roots_file`.
    pub fn root_file(&self) -> PathBuf {
        self.directory.path().join("root.pem")
    }

    /// The next mails are answered so.
    pub fn refuse_next(&self, answers: &[&'static str]) {
        self.shared.refusals.lock().expect("no panic while held").extend(answers);
    }

    /// An address with this in it is answered so, each time.
    pub fn refuse_reader(&self, part: &'static str, answer: &'static str) {
        *self.shared.refused_reader.lock().expect("no panic while held") = Some((part, answer));
    }

    /// Every mail so far, refused ones too.
    pub fn mails(&self) -> Vec<ReceivedMail> {
        self.shared.mails.lock().expect("no panic while held").clone()
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(IDLE))?;
        if self.security == Security::Tls {
            let stream = self.acceptor.accept(stream).map_err(std::io::Error::other)?;
            return self.talk(stream, true).map(drop);
        }
        if let Some(plain) = self.talk(stream, false)? {
            let stream = self.acceptor.accept(plain).map_err(std::io::Error::other)?;
            self.talk(stream, true)?;
        }
        Ok(())
    }

    /// One conversation. The stream comes back when the client asks for TLS.
    fn talk<S: Read + Write>(&self, stream: S, encrypted: bool) -> std::io::Result<Option<S>> {
        let mut stream = BufReader::new(stream);
        let say = |stream: &mut BufReader<S>, line: &str| write!(stream.get_mut(), "{line}\r\n");
        if !encrypted || self.security == Security::Tls {
            say(&mut stream, "220 mail.test ESMTP")?;
        }
        let (mut from, mut to, mut login) = (String::new(), Vec::new(), None);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end();
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => {
                    let upgrade = self.security == Security::StartTls && !encrypted;
                    let more = if upgrade { "250-STARTTLS\r\n" } else { "" };
                    say(&mut stream, &format!("250-mail.test\r\n{more}250 AUTH PLAIN"))?;
                }
                "STARTTLS" => {
                    say(&mut stream, "220 go on")?;
                    return Ok(Some(stream.into_inner()));
                }
                "AUTH" => {
                    login = line.split(' ').nth(2).map(str::to_owned);
                    say(&mut stream, "235 welcome")?;
                }
                "MAIL" => {
                    line.clone_into(&mut from);
                    say(&mut stream, "250 OK")?;
                }
                "RCPT" => {
                    let refused = *self.refused_reader.lock().expect("no panic while held");
                    match refused.filter(|(part, _)| line.contains(part)) {
                        Some((_, answer)) => say(&mut stream, answer)?,
                        None => {
                            to.push(line.to_owned());
                            say(&mut stream, "250 OK")?;
                        }
                    }
                }
                "DATA" => {
                    say(&mut stream, "354 go on")?;
                    let data = read_data(&mut stream)?;
                    let refusal = self.refusals.lock().expect("no panic while held").pop_front();
                    let (from, to) = (std::mem::take(&mut from), std::mem::take(&mut to));
                    self.mails.lock().expect("no panic while held").push(ReceivedMail {
                        from,
                        to,
                        data,
                        login: login.clone(),
                        encrypted,
                        accepted: refusal.is_none(),
                        at: Instant::now(),
                    });
                    say(&mut stream, refusal.unwrap_or("250 OK"))?;
                }
                "QUIT" => {
                    say(&mut stream, "221 bye")?;
                    return Ok(None);
                }
                _ => say(&mut stream, "250 OK")?,
            }
        }
    }
}

/// Up to the line with a dot alone; a dot before a dot goes (RFC 5321 section 4.5.2).
fn read_data(stream: &mut impl BufRead) -> std::io::Result<String> {
    let mut data = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end_matches(['\r', '\n']);
        if line == "." {
            return Ok(data);
        }
        data.push_str(line.strip_prefix('.').unwrap_or(line));
        data.push('\n');
    }
}
