//! One message to one server: over UDP, and over TCP where the answer does not fit.
//!
//! A library's resolver keeps the flags of an answer to itself; here they are what is asked for: whether a server has
//! authority for a name, and whether a resolver that does not check signatures knows more.

use super::resolve::as_text;
use hickory_resolver::proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// For one attempt over one transport.
const PATIENCE: Duration = Duration::from_secs(2);
/// A lost datagram is sent once more.
const DATAGRAMS: u32 = 2;
/// Passes every network that carries IPv6 without fragments (DNS flag day 2020).
const PAYLOAD_BYTES: u16 = 1232;

/// What is asked, and how.
#[derive(Clone, Debug)]
pub struct Question {
    pub name: Name,
    pub kind: RecordType,
    /// Whether the server shall ask others.
    pub recurse: bool,
    /// Whether signatures that don't hold shall be let pass (RFC 4035 section 3.2.2).
    pub unchecked: bool,
}

/// What a server said.
#[derive(Clone, Debug)]
pub struct Answer {
    pub code: ResponseCode,
    /// Whether the server has authority for the name.
    pub authoritative: bool,
    pub records: Vec<Record>,
    /// The zone whose record of authority came with it.
    pub zone: Option<Name>,
    /// Whether it names other servers instead of answering.
    pub refers: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("{0} does not answer")]
    Silent(SocketAddr),
    #[error("{server} can't be asked: {source}")]
    Io { server: SocketAddr, source: io::Error },
    #[error("{0} answers with what is no DNS message")]
    Malformed(SocketAddr),
}

impl AskError {
    /// Whether there is no way to the server from here, which says nothing about it.
    pub fn is_out_of_reach(&self) -> bool {
        let no_way =
            |kind| matches!(kind, io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable);
        matches!(self, Self::Io { source, .. } if no_way(source.kind()))
    }
}

impl Question {
    /// To a server that has authority.
    pub fn to_authority(name: Name, kind: RecordType) -> Self {
        Self { name, kind, recurse: false, unchecked: false }
    }

    fn message(&self) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = self.recurse;
        message.metadata.checking_disabled = self.unchecked;
        message.add_query(Query::query(self.name.clone(), self.kind));
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD_BYTES);
        message.set_edns(edns);
        message
    }
}

/// Asks one server. Answers within ten seconds.
///
/// # Errors
/// [`AskError`]; an answer that says no is none.
pub async fn ask(server: SocketAddr, question: &Question) -> Result<Answer, AskError> {
    let message = question.message();
    let bytes = message.to_vec().map_err(|_| AskError::Malformed(server))?;
    let mut answer = None;
    for _ in 0..DATAGRAMS {
        if let Ok(found) = timeout(PATIENCE, over_udp(server, &bytes, &message)).await {
            answer = Some(found.map_err(|source| AskError::Io { server, source })?);
            break;
        }
    }
    let mut answer = answer.ok_or(AskError::Silent(server))?;
    if answer.metadata.truncation {
        let bytes = send_over_tcp(server, &bytes).await?;
        answer = Message::from_vec(&bytes).map_err(|_| AskError::Malformed(server))?;
        if answer.metadata.id != message.metadata.id {
            return Err(AskError::Malformed(server));
        }
    }
    Ok(Answer::from(answer))
}

/// Sends a message and reads one, over a connection of its own.
///
/// # Errors
/// [`AskError`].
pub async fn send_over_tcp(server: SocketAddr, message: &[u8]) -> Result<Vec<u8>, AskError> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(message);
        stream.write_all(&framed).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    };
    match timeout(PATIENCE * DATAGRAMS, exchange).await {
        Ok(answer) => answer.map_err(|source| AskError::Io { server, source }),
        Err(_) => Err(AskError::Silent(server)),
    }
}

async fn over_udp(server: SocketAddr, bytes: &[u8], sent: &Message) -> io::Result<Message> {
    let any: IpAddr =
        if server.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    // Connected: an answer from elsewhere never arrives, and a port that nobody has is heard of.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What is no answer to this question is somebody else's.
        if let Ok(answer) = Message::from_vec(&buffer[..length])
            && answer.metadata.id == sent.metadata.id
            && answer.metadata.message_type == MessageType::Response
            && answer.metadata.op_code == OpCode::Query
            && answer.queries.iter().all(|query| sent.queries.contains(query))
        {
            return Ok(answer);
        }
    }
}

impl From<Message> for Answer {
    fn from(message: Message) -> Self {
        let of_kind = |kind| message.authorities.iter().find(move |record| record.record_type() == kind);
        let zone = of_kind(RecordType::SOA).map(|record| record.name.clone());
        Self {
            code: message.metadata.response_code,
            authoritative: message.metadata.authoritative,
            refers: message.answers.is_empty() && zone.is_none() && of_kind(RecordType::NS).is_some(),
            zone,
            records: message.answers,
        }
    }
}

impl Answer {
    /// Whether it says that there is something, or that there is nothing.
    pub fn is_final(&self) -> bool {
        matches!(self.code, ResponseCode::NoError | ResponseCode::NXDomain) && !self.refers
    }

    /// Addresses and targets of aliases, as text.
    pub fn values(&self) -> Vec<String> {
        let value = |record: &Record| match &record.data {
            RData::CNAME(target) => Some(as_text(&target.0)),
            _ => address_of(record).map(|address| address.to_string()),
        };
        self.records.iter().filter_map(value).collect()
    }

    /// The values of TXT records, each put together from its pieces.
    pub fn texts(&self) -> Vec<String> {
        self.records
            .iter()
            .filter_map(|record| match &record.data {
                RData::TXT(txt) => {
                    Some(txt.txt_data.iter().map(|piece| String::from_utf8_lossy(piece)).collect())
                }
                _ => None,
            })
            .collect()
    }
}

pub(super) fn address_of(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    }
}
