//! The validator against real sockets and a real DNS exchange: what Let's Encrypt accepts and what it refuses.

use super::*;
use crate::dns::Resolver;
use hickory_resolver::proto::{
    op::{Message, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, NS},
    },
};
use shared::domain::{KeyAuthorization, Thumbprint, Token};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};

const PATH: &str = "/.well-known/acme-challenge/aaaaaaaaaaaaaaaaaaaaaa";
const V4: &str = "127.0.0.1";
const V6: &str = "::1";

pub(super) type Zone = &'static [(&'static str, &'static [&'static str])];

/// Answers from `zone`, where what is no address is an alias; a name with the address `fail` gets SERVFAIL, with `refer`
/// the nameserver of a zone below, and one that is absent NXDOMAIN.
pub(super) async fn serve_dns(zone: Zone) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let query: Query = question.queries[0].clone();
            let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
            let asked = query.name().to_ascii();
            match zone.iter().find(|(name, _)| format!("{name}.").eq_ignore_ascii_case(&asked)) {
                None => answer.metadata.response_code = ResponseCode::NXDomain,
                Some((_, ["fail"])) => answer.metadata.response_code = ResponseCode::ServFail,
                Some((_, ["refer"])) => {
                    let server = RData::NS(NS(Name::from_ascii("ns.elsewhere.test.").unwrap()));
                    answer.authorities.push(Record::from_rdata(query.name().clone(), 60, server));
                }
                Some((_, values)) => {
                    for value in *values {
                        let data = match (value.parse(), query.query_type()) {
                            (Ok(IpAddr::V4(v4)), RecordType::A) => RData::A(v4.into()),
                            (Ok(IpAddr::V6(v6)), RecordType::AAAA) => RData::AAAA(v6.into()),
                            (Ok(_), _) => continue,
                            (Err(_), _) => {
                                RData::CNAME(CNAME(Name::from_ascii(format!("{value}.")).unwrap()))
                            }
                        };
                        answer.answers.push(Record::from_rdata(query.name().clone(), 60, data));
                    }
                }
            }
            answer.queries.push(query);
            socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    address
}

/// A web server on `address`; `answer` makes the whole answer from the Host header (without the port) and the path.
async fn serve_http(address: &str, port: u16, answer: fn(&str, &str, u16) -> String) -> u16 {
    let listener = TcpListener::bind((address, port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                request.push(byte);
            }
            let request = String::from_utf8(request).unwrap();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let host =
                request.split("Host: ").nth(1).and_then(|h| h.split([':', '\r']).next()).unwrap_or_default();
            stream.write_all(answer(host, path, port).as_bytes()).await.ok();
        }
    });
    port
}

async fn validator(port: u16, zone: Zone) -> Validator {
    let resolver = Resolver::with_servers(&[serve_dns(zone).await]).unwrap();
    let timeouts = Timeouts { dial: Duration::from_secs(5), total: Duration::from_secs(10) };
    Validator::new(Rules::for_port(port, |_| false), resolver).with_timeouts(timeouts)
}

fn found(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
}

/// A frontend that redirects everything but the validation host's own requests.
fn frontend_and_validation_host(host: &str, path: &str, port: u16) -> String {
    if host == "acme.test" {
        found(&key_authorization())
    } else {
        redirect(&format!("http://acme.test:{port}{path}"))
    }
}

fn token() -> Token {
    Token::parse(PATH.rsplit('/').next().unwrap()).unwrap()
}

fn expected() -> KeyAuthorization {
    KeyAuthorization::new(&token(), &Thumbprint::from_digest(&[7; 32]))
}

fn key_authorization() -> String {
    expected().as_str().to_owned()
}

fn not_found(_: &str, _: &str, _: u16) -> String {
    "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned()
}

#[tokio::test]
async fn a_redirected_challenge_passes_over_both_families() {
    let port = serve_http(V4, 0, frontend_and_validation_host).await;
    serve_http(V6, port, frontend_and_validation_host).await;
    let validator = validator(port, &[("shop.test", &[V4, V6]), ("acme.test", &[V4, V6])]).await;
    let check = Reach::new(validator).check("shop.test", &token(), &expected()).await;
    assert!(check.passes(), "{}", check.explain());
    assert_eq!(check.class(), None);
    let hops = &check.as_the_ca.hops;
    assert_eq!(hops.iter().map(|hop| hop.status).collect::<Vec<_>>(), [Some(302), Some(200)]);
    assert!(hops.iter().all(|hop| hop.address == Some(V6.parse().unwrap())), "AAAA comes first: {hops:?}");
    assert_eq!(check.ipv4.as_ref().unwrap().hops[0].address, Some(V4.parse().unwrap()));
    let document = serde_json::to_value(&check).unwrap();
    assert_eq!(document["as_the_ca"]["hops"][1]["status"], 200);
    assert_eq!(document["passes"], true);
}

#[tokio::test]
async fn a_dead_ipv6_address_falls_back_and_is_reported() {
    let port = serve_http(V4, 0, frontend_and_validation_host).await;
    let validator = validator(port, &[("shop.test", &[V4, V6]), ("acme.test", &[V4])]).await;
    let check = Reach::new(validator).check("shop.test", &token(), &expected()).await;
    assert!(check.passes(), "{}", check.explain());
    assert_eq!(check.class(), Some(Class::Ipv6Differs));
    assert!(check.explain().contains("::1: connection refused"), "{}", check.explain());
}

#[tokio::test]
async fn a_wrong_answer_over_ipv6_is_final_although_ipv4_is_right() {
    let port = serve_http(V4, 0, frontend_and_validation_host).await;
    serve_http(V6, port, not_found).await;
    let validator = validator(port, &[("shop.test", &[V4, V6]), ("acme.test", &[V4])])
        .await
        .with_frontends(vec![V4.parse().unwrap()]);
    let check = Reach::new(validator).check("shop.test", &token(), &expected()).await;
    assert!(!check.passes());
    assert_eq!(check.class(), Some(Class::Ipv6Differs));
    assert_eq!(check.as_the_ca.class(), Some(Class::NotPointingHere));
    assert!(check.explain().contains("AAAA record of shop.test"), "{}", check.explain());
}

#[tokio::test]
async fn the_target_of_a_redirect_has_no_fallback() {
    let port = serve_http(V4, 0, frontend_and_validation_host).await;
    for zone in [
        [("shop.test", &[V4] as &[_]), ("acme.test", &[V4, V6])].as_slice(),
        // Nor after the name itself fell back.
        [("shop.test", &[V4, "::1"] as &[_]), ("acme.test", &[V4, "::2"])].as_slice(),
    ] {
        let zone: Zone = Box::leak(zone.to_vec().into_boxed_slice());
        let finding = validator(port, zone).await.fetch_as_the_ca("shop.test", PATH).await;
        assert_eq!(finding.class(), Some(Class::ValidationHost), "{finding:?}");
        assert!(finding.explain().contains("validation host"), "{}", finding.explain());
    }
}

#[tokio::test]
async fn a_dead_redirect_target_behind_ipv6_is_named_instead_of_the_loop() {
    let port = serve_http(V4, 0, frontend_and_validation_host).await;
    serve_http(V6, port, frontend_and_validation_host).await;
    let validator = validator(port, &[("shop.test", &[V4, V6]), ("acme.test", &["::2"])]).await;
    let finding = validator.fetch_as_the_ca("shop.test", PATH).await;
    assert_eq!(finding.class(), Some(Class::ValidationHost), "{finding:?}");
    assert_eq!(
        finding.hops.iter().filter(|hop| hop.status == Some(302)).count(),
        2,
        "both families were asked"
    );
    assert!(finding.explain().contains("at ::2"), "{}", finding.explain());
}

#[tokio::test]
async fn redirects_that_a_ca_does_not_follow_name_the_rule() {
    for (answer, words) in [
        (
            (|_, path, _| redirect(&format!("http://acme.test:8080{path}"))) as fn(&str, &str, u16) -> String,
            "port 80",
        ),
        (|_, path, _| redirect(&format!("http://acme.test.well-known{path}")), "slash"),
        (|_, path, port| redirect(&format!("http://shop.test:{port}{path}")), "once"),
        (|_, _, _| redirect("ftp://acme.test/x"), "http://"),
        (|_, _, _| "HTTP/1.1 303 See Other\r\nLocation: http://acme.test/\r\n\r\n".to_owned(), "Use 302"),
        (|_, _, _| redirect("http://missing.test/x"), "NXDOMAIN"),
    ] {
        let port = serve_http(V4, 0, answer).await;
        let finding = validator(port, &[("shop.test", &[V4])]).await.fetch_as_the_ca("shop.test", PATH).await;
        assert_eq!(finding.class(), Some(Class::RedirectRule), "{finding:?}");
        assert!(finding.explain().contains(words), "{}", finding.explain());
    }
}

#[tokio::test]
async fn what_is_behind_the_redirect_is_the_operators() {
    type Answer = fn(&str, &str, u16) -> String;
    let answers: [(Answer, Class); 2] = [
        (
            |host, path, port| match host.starts_with("acme") {
                true => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
                false => redirect(&format!("http://acme.test:{port}{path}")),
            },
            Class::OtherContent,
        ),
        (|_, path, port| redirect(&format!("http://closed.test:{port}{path}")), Class::ValidationHost),
    ];
    for (answer, class) in answers {
        let port = serve_http(V4, 0, answer).await;
        let zone: Zone = &[("shop.test", &[V4]), ("acme.test", &[V4]), ("closed.test", &["127.0.0.9"])];
        let validator = validator(port, zone).await;
        let finding = validator.clone().fetch_as_the_ca("shop.test", PATH).await;
        assert_eq!(finding.class(), Some(class), "{finding:?}");
        // A server that is not ours may lead wherever it likes.
        let elsewhere = validator.with_frontends(vec!["192.0.2.1".parse().unwrap()]);
        let finding = elsewhere.fetch_as_the_ca("shop.test", PATH).await;
        assert_eq!(finding.class(), Some(Class::NotPointingHere), "{finding:?}");
    }
}

#[tokio::test]
async fn only_an_exact_short_answer_is_one() {
    type Answer = fn(&str, &str, u16) -> String;
    let answers: &[(Answer, Option<Class>)] = &[
        (|_, _, _| found(&format!("{}\r\n \n", key_authorization())), None),
        (|_, _, _| found(&format!(" {}", key_authorization())), Some(Class::NotPointingHere)),
        (|_, _, _| found(&format!("\u{feff}{}", key_authorization())), Some(Class::NotPointingHere)),
        (|_, _, _| found(&format!("{:128}", key_authorization())), Some(Class::NotPointingHere)),
        (|_, _, _| found(&format!("{:127}", key_authorization())), None),
        (|_, _, _| found("<html>welcome</html>"), Some(Class::NotPointingHere)),
        (|_, _, _| "HTTP/1.1 203 OK\r\nContent-Length: 0\r\n\r\n".to_owned(), Some(Class::NotPointingHere)),
        (|_, _, _| "HTTP/1.1 403 Forbidden\r\n\r\n".to_owned(), Some(Class::RedirectRule)),
        (|_, _, _| "HTTP/1.1 429 Slow down\r\n\r\n".to_owned(), Some(Class::Firewall)),
    ];
    for (answer, class) in answers {
        let port = serve_http(V4, 0, *answer).await;
        let reach = Reach::new(validator(port, &[("shop.test", &[V4])]).await);
        let check = reach.check("shop.test", &token(), &expected()).await;
        assert_eq!(check.class(), *class, "{}", check.explain());
        assert_eq!(check.passes(), class.is_none());
    }
}

#[tokio::test]
async fn names_that_lead_nowhere_are_dns_findings() {
    let port = 5002;
    let validator = validator(port, &[("empty.test", &[]), ("broken.test", &["fail"])]).await;
    for (name, words) in
        [("missing.test", "create an A or AAAA"), ("empty.test", "has no address"), ("broken.test", "DNSSEC")]
    {
        let finding = validator.fetch_as_the_ca(name, PATH).await;
        assert_eq!(finding.class(), Some(Class::Dns), "{finding:?}");
        assert!(finding.explain().contains(words), "{}", finding.explain());
        assert!(finding.hops.is_empty());
    }
}

#[tokio::test]
async fn the_cas_own_rules_ask_no_special_purpose_address() {
    let resolver = Resolver::with_servers(&[serve_dns(&[("shop.test", &[V4, "fd00::1"])]).await]).unwrap();
    let validator = Validator::new(Rules::for_port(80, |_| true), resolver);
    for host in ["shop.test", "192.168.0.1", "[::1]"] {
        let finding = validator.fetch_as_the_ca(host, PATH).await;
        assert_eq!(finding.class(), Some(Class::Dns), "{finding:?}");
        assert!(finding.hops.is_empty());
        assert!(finding.explain().contains("public"), "{}", finding.explain());
    }
}

#[tokio::test]
async fn a_silent_server_is_slow_and_a_closed_port_a_firewall() {
    let silent = TcpListener::bind((V4, 0)).await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let timeouts = Timeouts { dial: Duration::from_secs(5), total: Duration::from_millis(300) };
    let slow = validator(port, &[("shop.test", &[V4])]).await.with_timeouts(timeouts);
    assert_eq!(slow.fetch_as_the_ca("shop.test", PATH).await.class(), Some(Class::Slow));
    drop(silent);
    let closed =
        validator(port, &[("shop.test", &[V4])]).await.with_frontends(vec!["192.0.2.1".parse().unwrap()]);
    let finding = closed.fetch_as_the_ca("shop.test", PATH).await;
    assert_eq!(finding.class(), Some(Class::Firewall));
    assert!(finding.explain().contains("none of your frontends"), "{}", finding.explain());
}
