//! One message to one server: over UDP, and over TCP where the answer does not fit.
//!
//! A library's resolver keeps the flags of an answer to itself; here they are what is asked for: whether a server has
//! authority for a name, and whether a resolver that does not check signatures knows more.

use super::resolve::as_text;
use hickory_resolver::proto::{
    op::{Edns, Message, Query, ResponseCode},
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

/// For one datagram, or for asking over a connection.
const PATIENCE: Duration = Duration::from_secs(2);
const TCP_PATIENCE: Duration = Duration::from_secs(4);
/// With extensions, and without: a lost datagram is sent once more, and old servers refuse the extensions or drop what has them.
const WITH_EDNS: [bool; 2] = [true, false];
/// Passes every network that carries IPv6 without fragments (DNS flag day 2020).
const PAYLOAD_BYTES: u16 = 1232;
const HEADER_BYTES: usize = 12;

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
    #[error("it has no address")]
    NoAddress,
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

    fn message(&self, with_edns: bool) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = self.recurse;
        message.metadata.checking_disabled = self.unchecked;
        message.add_query(Query::query(self.name.clone(), self.kind));
        if with_edns {
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD_BYTES);
            message.set_edns(edns);
        }
        message
    }
}

/// Asks one server. Answers within ten seconds.
///
/// # Errors
/// [`AskError`]; an answer that says no is none.
pub async fn ask(server: SocketAddr, question: &Question) -> Result<Answer, AskError> {
    let bytes = ask_bytes(server, question).await?;
    let message = Message::from_vec(&bytes).map_err(|_| AskError::Malformed(server))?;
    let asked = Query::query(question.name.clone(), question.kind);
    if message.queries.iter().any(|query| *query != asked) {
        return Err(AskError::Malformed(server));
    }
    Ok(Answer::from(message))
}

/// [`ask`], with the answer as it came: it may hold a record that the library can't read.
pub(super) async fn ask_bytes(server: SocketAddr, question: &Question) -> Result<Vec<u8>, AskError> {
    let mut refused = None;
    for with_edns in WITH_EDNS {
        let sent = question.message(with_edns).to_vec().map_err(|_| AskError::Malformed(server))?;
        let Ok(found) = timeout(PATIENCE, over_udp(server, &sent)).await else { continue };
        let mut answer = found.map_err(|source| AskError::Io { server, source })?;
        if is_truncated(&answer) {
            answer = send_over_tcp(server, &sent, TCP_PATIENCE).await?;
            if !answers(&answer, &sent) {
                return Err(AskError::Malformed(server));
            }
        }
        // RFC 6891 section 7: what a server says that does not know the extensions.
        if !matches!(code_of(&answer), ResponseCode::FormErr | ResponseCode::NotImp) {
            return Ok(answer);
        }
        refused = Some(answer);
    }
    refused.ok_or(AskError::Silent(server))
}

/// Sends a message and reads one, over a connection of its own, within `patience`: a server that is told to change a zone may
/// have to write it down first.
///
/// # Errors
/// [`AskError`].
pub async fn send_over_tcp(
    server: SocketAddr,
    message: &[u8],
    patience: Duration,
) -> Result<Vec<u8>, AskError> {
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
    match timeout(patience, exchange).await {
        Ok(answer) => answer.map_err(|source| AskError::Io { server, source }),
        Err(_) => Err(AskError::Silent(server)),
    }
}

async fn over_udp(server: SocketAddr, sent: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    // Connected: an answer from elsewhere never arrives, and a port that nobody has is heard of.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(sent).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What is no answer to this question is somebody else's.
        if answers(&buffer[..length], sent) {
            return Ok(buffer[..length].to_vec());
        }
    }
}

/// Whether a message is the answer to a query, by its header (RFC 1035 section 4.1.1): the same id, and the bit of a response.
fn answers(message: &[u8], sent: &[u8]) -> bool {
    message.len() >= HEADER_BYTES && message[..2] == sent[..2] && message[2] & 0xf8 == 0x80
}

fn is_truncated(message: &[u8]) -> bool {
    message[2] & 0x02 != 0
}

/// The response code of a message that [`answers`] a query.
pub(super) fn code_of(message: &[u8]) -> ResponseCode {
    ResponseCode::from(0, message[3] & 0x0f)
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

    /// Whether the server speaks for the zone of the name, and says so.
    pub fn is_of_authority(&self) -> bool {
        self.is_final() && self.authoritative
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

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::rr::rdata::A;

    /// A nameserver that knows no extensions: refuses what has them, or drops it.
    async fn old_server(drops: bool) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let answer = if query.edns.is_none() {
                    let mut answer = query.clone();
                    answer.metadata.message_type = hickory_resolver::proto::op::MessageType::Response;
                    answer.metadata.authoritative = true;
                    let name = query.queries[0].name().clone();
                    answer.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 7))));
                    answer.to_vec().unwrap()
                } else if drops {
                    continue;
                } else {
                    // The header alone, as old servers answer.
                    let mut header = buffer[..HEADER_BYTES].to_vec();
                    header[2] |= 0x80;
                    header[3] = 1;
                    header[4..].fill(0);
                    header
                };
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn a_server_that_knows_no_extensions_is_asked_without() {
        for drops in [false, true] {
            let server = old_server(drops).await;
            let name = Name::from_ascii("shop.example.").unwrap();
            let answer = ask(server, &Question::to_authority(name, RecordType::A)).await.unwrap();
            assert!(answer.is_of_authority() && answer.values() == ["192.0.2.7"], "{drops}: {answer:?}");
        }
    }

    #[tokio::test]
    async fn a_write_may_take_longer_than_a_question() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut sent = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut sent).await.unwrap();
            tokio::time::sleep(TCP_PATIENCE + Duration::from_millis(500)).await;
            stream.write_all(&[0, 2, 7, 7]).await.unwrap();
        });
        let answer = send_over_tcp(server, &[1, 2, 3], Duration::from_secs(30)).await.unwrap();
        assert_eq!(answer, [7, 7]);
    }
}
