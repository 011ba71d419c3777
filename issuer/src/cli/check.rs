//! `issuer check NAME...`: what the CA will make of names, before it is asked.

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output, table},
    site::parse_challenge,
    texts::read_words,
    watch::Watch,
};
use crate::{
    ca::{Ca, Terms},
    dns::Asker,
    dns01::{Dns01Error, Prover, labelled_record, own_record},
    issuance::{DEFAULT_ACCOUNT, client_for, validator},
    preflight::{Canary, Cause, Class, Depth, Language, Preflight, Proof, Readiness, Remark, Report},
    suffixes,
};
use serde_json::json;
use shared::{
    config::Config,
    domain::{ChallengeType, DnsName, PublicSuffixes},
    store::{Store, StoreError},
};
use std::{collections::HashSet, net::IpAddr, path::PathBuf, sync::Arc};
use tokio::{sync::Semaphore, task::JoinSet};

/// Names that are looked at at once.
const AT_ONCE: usize = 64;
/// Asked of a frontend where no name is given: one that it can't know.
const UNKNOWN_NAME: &str = "signpost-check.example";
/// A clock that is off by more is worth a word, seconds.
const CLOCK_TOLERANCE: i64 = 60;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Hostnames, IP addresses or wildcards, in Unicode or A-labels
    names: Vec<String>,
    /// Read names from a file, one on each line, # begins a comment; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Ask this frontend, whatever the names' DNS says: before any name leads there
    #[arg(long, value_name = "ADDRESS")]
    frontend: Option<IpAddr>,
    /// As this CA would see it
    #[arg(long, value_name = "NAME")]
    ca: Option<String>,
    /// How names that no site has are proved: http-01, dns-01 or auto; a wildcard always by dns-01
    #[arg(long, value_parser = parse_challenge, default_value = "http-01")]
    challenge: ChallengeType,
    /// The account that CAA records may name
    #[arg(long, value_name = "NAME", default_value = DEFAULT_ACCOUNT)]
    account: String,
    /// The language of the explanations
    #[arg(long, value_enum, default_value_t)]
    lang: Language,
}

/// What is looked at with.
struct Kit {
    preflight: Preflight,
    asker: Asker,
    prover: Prover,
    canary: Canary,
    frontend: Option<IpAddr>,
}

pub(super) async fn run(arguments: Arguments, config: Config, output: &Output) -> Result<Exit, Failed> {
    let texts = texts(&arguments, *output).await?;
    let context = Context::open_to_change(config, *output).await?;
    let ca = context.ca(arguments.ca.as_deref())?;
    let terms = Terms::of(&context.config, Some(&ca.name))
        .map_err(|e| Failed::because(Exit::Usage, "configuration", &e))?;
    let (asker, of_ca) = ask_ca(&context, &ca, &arguments.account).await?;
    let frontends = arguments.frontend.map(|address| vec![address]);
    let validator =
        validator(&context.config, ca.public).map_err(|e| Failed::because(Exit::Usage, "resolvers", &e))?;
    let validator = frontends.into_iter().fold(validator, |validator, own| validator.with_frontends(own));
    let canary = Canary::publish(&context.store).await.map_err(|e| of_store(&e))?;
    let resolver = validator.resolver().clone();
    let preflight = Preflight::new(validator, ca.title.clone());
    let prover = Prover::open(&context.config, context.store.clone(), resolver)
        .map_err(|e| Failed::because(Exit::Usage, "configuration", &e))?;
    let kit = Arc::new(Kit { preflight, asker, prover, canary, frontend: arguments.frontend });
    let suffixes = suffixes::current(&context.config);

    let watch = Watch::over(texts.len(), *output);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut looks = JoinSet::new();
    let mut reports: Vec<Option<(String, Result<Report, Remark>)>> = texts.iter().map(|_| None).collect();
    for (place, text) in texts.into_iter().enumerate() {
        match parse(&text, &terms, &suffixes) {
            Err(remark) => {
                reports[place] = Some((text, Err(remark)));
                watch.site_done("");
            }
            Ok(name) => {
                let (kit, places) = (Arc::clone(&kit), Arc::clone(&places));
                let challenge = challenge_of(&context.store, &name, arguments.challenge);
                let challenge = challenge.await.map_err(|e| of_store(&e))?;
                looks.spawn(async move {
                    let _place = places.acquire_owned().await;
                    (place, text, kit.look(&name, challenge).await)
                });
            }
        }
    }
    while let Some(look) = looks.join_next().await {
        let (place, text, report) = look.map_err(|e| Failed::because(Exit::Failed, "check", &e))?;
        watch.site_done(&text);
        reports[place] = Some((text, Ok(report)));
    }
    watch.end();
    let reports: Vec<_> = reports.into_iter().flatten().collect();
    Ok(tell(&reports, &of_ca, &ca, arguments.lang, output))
}

impl Kit {
    async fn look(&self, name: &DnsName, challenge: ChallengeType) -> Report {
        if let Some(address) = self.frontend {
            return self.preflight.look_at_frontend(name, address, &self.canary).await;
        }
        let never_http = !matches!(challenge, ChallengeType::Http01 | ChallengeType::Auto);
        if name.is_wildcard() || (never_http && name.address().is_none()) {
            return self.look_for_a_record(name, challenge).await;
        }
        let report = self.look_as(name, Proof::Http, ChallengeType::Http01.as_str()).await;
        let falls_back = challenge == ChallengeType::Auto
            && report.readiness() == Readiness::WillFail
            && self.prover.can_write(&own_record(name)).await.is_ok();
        if falls_back { self.look_for_a_record(name, challenge).await } else { report }
    }

    async fn look_for_a_record(&self, name: &DnsName, challenge: ChallengeType) -> Report {
        let mut report = self.look_as(name, Proof::Dns, challenge.in_dns()).await;
        let record = match (challenge, &self.asker.account_url) {
            // What must stand there is the account's affair: `issue` and `status` tell.
            (ChallengeType::DnsPersist01, _) => return report,
            (ChallengeType::DnsAccount01, Some(account_url)) => labelled_record(name, account_url),
            _ => own_record(name),
        };
        let (weight, cause) = match self.prover.can_write(&record).await {
            Ok(()) => return report,
            Err(Dns01Error::NoProvider(record)) => (Readiness::WillFail, Cause::of_provider(&record)),
            Err(error) => (Readiness::Doubtful, Cause::of_record(name.as_str(), &error)),
        };
        report.remarks.insert(0, Remark { weight, class: Class::DnsChallenge, cause });
        report
    }

    async fn look_as(&self, name: &DnsName, proof: Proof, method: &str) -> Report {
        let asker = Asker { method: method.to_owned(), ..self.asker.clone() };
        self.preflight.look(name, &asker, proof, Some(&self.canary), Depth::Full).await
    }
}

/// How the name's site proves it; `otherwise` where it has none.
async fn challenge_of(
    store: &Store,
    name: &DnsName,
    otherwise: ChallengeType,
) -> Result<ChallengeType, StoreError> {
    let pointers = store.load_pointers(std::slice::from_ref(name)).await?;
    let Some(id) = pointers.first().and_then(|pointer| pointer.owner()) else { return Ok(otherwise) };
    Ok(store.load_site(&id).await?.map_or(otherwise, |stored| stored.site.challenge))
}

async fn texts(arguments: &Arguments, output: Output) -> Result<Vec<String>, Failed> {
    let mut texts = arguments.names.clone();
    if let Some(path) = &arguments.file {
        texts.extend(read_words(path, output).await?);
    }
    let mut known = HashSet::new();
    texts.retain(|text| known.insert(text.clone()));
    if texts.is_empty() && arguments.frontend.is_some() {
        texts.push(UNKNOWN_NAME.to_owned());
    }
    if texts.is_empty() {
        let message = "name at least one hostname, a --file of them, or a --frontend";
        return Err(Failed::new(Exit::Usage, "usage", message));
    }
    Ok(texts)
}

fn parse(text: &str, terms: &Terms, suffixes: &PublicSuffixes) -> Result<DnsName, Remark> {
    DnsName::parse_identifier(text)
        .and_then(|name| terms.check_name(suffixes, &name, None, ChallengeType::Auto).map(|()| name))
        .map_err(|error| Remark {
            weight: Readiness::WillFail,
            class: Class::Name,
            cause: Cause::of_name(text, &error),
        })
}

/// Who asks, and what is to be said of the CA itself. It is asked for its directory, once for all names.
async fn ask_ca(context: &Context, ca: &Ca, account: &str) -> Result<(Asker, Vec<Remark>), Failed> {
    let stored = context.store.load_account(&ca.name, account).await.map_err(|e| of_store(&e))?;
    let mut asker = Asker {
        identities: ca.limits.caa_identities.clone(),
        account_url: stored.and_then(|stored| stored.account.url),
        method: "http-01".to_owned(),
    };
    let mut remarks = Vec::new();
    let answer = match client_for(&context.store, ca).await {
        Ok(client) => match client.fetch_directory().await {
            Ok(directory) => {
                if !directory.meta.caa_identities.is_empty() {
                    asker.identities = directory.meta.caa_identities;
                }
                let offset = client.clock_offset_seconds().unwrap_or(0);
                if offset.abs() > CLOCK_TOLERANCE {
                    remarks.push(Remark {
                        weight: Readiness::Doubtful,
                        class: Class::Ca,
                        cause: Cause::of_clock(offset),
                    });
                }
                None
            }
            Err(error) => Some(shared::error::chain(&error)),
        },
        Err(error) => Some(shared::error::chain(&error)),
    };
    remarks.extend(answer.map(|reason| Remark {
        weight: Readiness::WillFail,
        class: Class::Ca,
        cause: Cause::of_ca(&ca.directory, &reason),
    }));
    Ok((asker, remarks))
}

fn tell(
    reports: &[(String, Result<Report, Remark>)],
    of_ca: &[Remark],
    ca: &Ca,
    language: Language,
    output: &Output,
) -> Exit {
    let count = |wanted| reports.iter().filter(|(_, report)| readiness(report) == wanted).count();
    let names: Vec<_> = reports
        .iter()
        .map(|(text, report)| match report {
            Ok(report) => json!(report),
            Err(remark) => {
                json!({ "name": text, "verdict": remark.weight, "remarks": [remark], "addresses": [] })
            }
        })
        .collect();
    let document = json!({
        "ca": ca.name,
        "ready": count(Readiness::Ready),
        "doubtful": count(Readiness::Doubtful),
        "will_fail": count(Readiness::WillFail),
        "ca_remarks": of_ca,
        "names": names,
    });
    output.result(&document, || to_text(reports, of_ca, language));
    let any_fails =
        count(Readiness::WillFail) > 0 || of_ca.iter().any(|one| one.weight == Readiness::WillFail);
    if any_fails { Exit::Failed } else { Exit::Done }
}

fn readiness(report: &Result<Report, Remark>) -> Readiness {
    report.as_ref().map_or_else(|remark| remark.weight, Report::readiness)
}

fn to_text(reports: &[(String, Result<Report, Remark>)], of_ca: &[Remark], language: Language) -> String {
    let rows = reports.iter().map(|(text, report)| {
        let (name, way) = match report {
            Ok(report) => (report.name.to_unicode(), report.ways.first().map(|way| way.way())),
            Err(_) => (text.clone(), None),
        };
        let is_ready = readiness(report) == Readiness::Ready;
        vec![name, word(readiness(report), language).to_owned(), way.filter(|_| is_ready).unwrap_or_default()]
    });
    let headings = match language {
        Language::En => ["NAME", "VERDICT", "WAY"],
        Language::Ko => ["이름", "판정", "경로"],
    };
    let mut text = table(&headings, rows);
    for (name, report) in reports {
        let remarks = match report {
            Ok(report) => report.remarks.as_slice(),
            Err(remark) => std::slice::from_ref(remark),
        };
        for remark in remarks {
            text.push_str(&format!("\n\n{name}: {}", paragraph(remark, language)));
        }
    }
    for remark in of_ca {
        text.push_str(&format!("\n\n{}", paragraph(remark, language)));
    }
    text
}

fn paragraph(remark: &Remark, language: Language) -> String {
    let (change, says) = match language {
        Language::En => ("To do", "The CA would probably say"),
        Language::Ko => ("조치", "인증기관의 예상 답변"),
    };
    let mut text = format!(
        "{}\n  {}\n  {change}: {}",
        word(remark.weight, language),
        remark.cause.what(language),
        remark.cause.remedy(language)
    );
    if let Some(answer) = remark.cause.ca_answer().filter(|_| remark.weight > Readiness::Ready) {
        text.push_str(&format!("\n  {says}: {answer}"));
    }
    text
}

fn word(readiness: Readiness, language: Language) -> &'static str {
    match (readiness, language) {
        (Readiness::Ready, Language::En) => "ready",
        (Readiness::Doubtful, Language::En) => "doubtful",
        (Readiness::WillFail, Language::En) => "will fail",
        (Readiness::Ready, Language::Ko) => "정상",
        (Readiness::Doubtful, Language::Ko) => "의심",
        (Readiness::WillFail, Language::Ko) => "실패 예상",
    }
}
