//! `issuer check NAME...`: what the CA will make of names, before it is asked.

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output, table},
    settings::parse_challenge,
    site::of_site,
    texts::read_words,
    watch::Watch,
};
use crate::{
    ca::{Ca, Terms},
    dns::Asker,
    dns01::{Dns01Error, Prover, labelled_record, own_record},
    issuance::{DEFAULT_ACCOUNT, client_for, validator},
    preflight::{Canary, Cause, Class, Depth, Language, Preflight, Proof, Readiness, Remark, Report},
    sites::{Registry, SiteError, WishError, is_word},
    suffixes,
};
use serde_json::json;
use shared::{
    config::Config,
    domain::{ChallengeType, DnsName, Site},
    store::StoreError,
};
use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
};
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
    /// As this CA would see it; without it, each name as the CA of its site would
    #[arg(long, value_name = "NAME")]
    ca: Option<String>,
    /// How names that no site has are proved: http-01, dns-01 or auto; a wildcard always by dns-01
    #[arg(long, value_parser = parse_challenge, default_value = "http-01")]
    challenge: ChallengeType,
    /// The account that CAA records may name; without it, that of the name's site
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// The language of the explanations
    #[arg(long, value_enum, default_value_t)]
    lang: Language,
}

/// What is looked at with.
struct Kit {
    preflight: Preflight,
    asker: Asker,
    prover: Prover,
    canary: Arc<Canary>,
    frontend: Option<IpAddr>,
}

/// What is looked at with for names of one CA and account, and what is to be said of the CA.
struct Desk {
    kit: Arc<Kit>,
    ca: String,
    of_ca: Vec<Remark>,
}

/// A name that was looked at, and as which CA would.
struct Looked {
    text: String,
    ca: String,
    report: Result<Report, Remark>,
}

pub(super) async fn run(arguments: Arguments, config: Config, output: &Output) -> Result<Exit, Failed> {
    let texts = texts(&arguments, *output).await?;
    let context = Context::open_to_change(config, *output).await?;
    // One that is named must be there, whatever the names are.
    let usual = Ca::of(&context.config, arguments.ca.as_deref());
    if arguments.ca.is_some() {
        usual.as_ref().map_err(|e| Failed::because(Exit::Usage, "configuration", e))?;
    }
    let registry = Registry::new(context.store.clone(), Arc::new(context.config.clone()));
    if let Some(account) = &arguments.account {
        // At the CA that is named; else at that of each name, once it is known.
        let ca = usual.as_ref().ok().filter(|_| arguments.ca.is_some());
        check_account(&registry, ca.map(|ca| ca.name.as_str()), account).await?;
    }
    let canary = Arc::new(Canary::publish(&context.store).await.map_err(|e| of_store(&e))?);
    let suffixes = suffixes::current(&context.config);

    let watch = Watch::over(texts.len(), *output);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut desks: BTreeMap<(String, String), Desk> = BTreeMap::new();
    let mut looks = JoinSet::new();
    let mut looked: Vec<Option<Looked>> = texts.iter().map(|_| None).collect();
    for (place, text) in texts.into_iter().enumerate() {
        let refused = |ca: String, cause: Cause| {
            let remark = Remark { weight: Readiness::WillFail, class: Class::Name, cause };
            Some(Looked { text: text.clone(), ca, report: Err(remark) })
        };
        let usual_name = || usual.as_ref().map(|ca| ca.name.clone()).unwrap_or_default();
        let name = match DnsName::parse_identifier(&text) {
            Ok(name) => name,
            Err(error) => {
                looked[place] = refused(usual_name(), Cause::of_name(&text, &error));
                watch.site_done("");
                continue;
            }
        };
        // As its site has it; what is named goes before.
        let site = site_of(&registry, &name, output).await?;
        let of_site = site.as_ref().filter(|site| arguments.ca.as_ref().is_none_or(|ca| *ca == site.ca));
        let ca_name = match (of_site, &usual) {
            (Some(site), _) => site.ca.clone(),
            (None, Ok(ca)) => ca.name.clone(),
            (None, Err(error)) => return Err(Failed::because(Exit::Usage, "configuration", error)),
        };
        let account = arguments.account.clone().or_else(|| of_site.map(|site| site.account.clone()));
        let account = account.unwrap_or_else(|| DEFAULT_ACCOUNT.to_owned());
        let terms = match Terms::of(&context.config, Some(&ca_name)) {
            Ok(terms) => terms,
            Err(error) => {
                let cause = Cause::of_ca(&ca_name, &error.to_string());
                looked[place] = refused(ca_name, cause);
                watch.site_done("");
                continue;
            }
        };
        let profile = of_site.and_then(|site| site.profile.as_deref());
        if let Err(error) = terms.check_name(&suffixes, &name, profile, ChallengeType::Auto) {
            looked[place] = refused(ca_name, Cause::of_name(&text, &error));
            watch.site_done("");
            continue;
        }
        let key = (ca_name.clone(), account.clone());
        if !desks.contains_key(&key) {
            if arguments.account.is_some() {
                check_account(&registry, Some(&ca_name), &account).await?;
            }
            let desk = Desk::open(&context, &ca_name, &account, arguments.frontend, &canary).await?;
            desks.insert(key.clone(), desk);
        }
        let (kit, places) = (Arc::clone(&desks[&key].kit), Arc::clone(&places));
        let challenge = site.as_ref().map_or(arguments.challenge, |site| site.challenge);
        looks.spawn(async move {
            let _place = places.acquire_owned().await;
            (place, Looked { text, ca: ca_name, report: Ok(kit.look(&name, challenge).await) })
        });
    }
    while let Some(look) = looks.join_next().await {
        let (place, look) = look.map_err(|e| Failed::because(Exit::Failed, "check", &e))?;
        watch.site_done(&look.text);
        looked[place] = Some(look);
    }
    watch.end();
    let looked: Vec<Looked> = looked.into_iter().flatten().collect();
    let desks: Vec<Desk> = desks.into_values().collect();
    Ok(tell(&looked, &desks, arguments.lang, output))
}

impl Desk {
    async fn open(
        context: &Context,
        ca: &str,
        account: &str,
        frontend: Option<IpAddr>,
        canary: &Arc<Canary>,
    ) -> Result<Self, Failed> {
        let unusable =
            |error: &(dyn std::error::Error + 'static)| Failed::because(Exit::Usage, "configuration", error);
        let ca = context.ca(Some(ca))?;
        let (asker, of_ca) = ask_ca(context, &ca, account).await?;
        let validator = validator(&context.config, ca.public)
            .map_err(|e| Failed::because(Exit::Usage, "resolvers", &e))?;
        let validator = match frontend {
            Some(address) => validator.with_frontends(vec![address]),
            None => validator,
        };
        let resolver = validator.resolver().clone();
        let preflight = Preflight::new(validator, ca.title.clone());
        let prover = Prover::open(&context.config, context.store.clone(), resolver);
        let prover = prover.map_err(|e| unusable(&e))?;
        let kit = Kit { preflight, asker, prover, canary: Arc::clone(canary), frontend };
        Ok(Self { kit: Arc::new(kit), ca: ca.name, of_ca })
    }
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

/// CAA records and proofs would be judged for somebody who is not there.
async fn check_account(registry: &Registry, ca: Option<&str>, account: &str) -> Result<(), Failed> {
    if !is_word(account) {
        return Err(of_site(&WishError::Word(account.to_owned()).into()));
    }
    match ca {
        Some(ca) => registry.check_account_of(ca, account).await.map_err(|e| of_site(&e)),
        None => Ok(()),
    }
}

/// The site that a name belongs to. One that can't be read is said, and the name is looked at as if it had none.
async fn site_of(registry: &Registry, name: &DnsName, output: &Output) -> Result<Option<Site>, Failed> {
    match registry.find(name).await {
        Ok(wanted) => Ok(Some(wanted.site)),
        Err(SiteError::NotFound(_)) => Ok(None),
        Err(SiteError::Store(error @ (StoreError::Corrupt { .. } | StoreError::NewerSchema { .. }))) => {
            let why = shared::error::chain(&error);
            output.note(&format!("{}: its site can't be read, and is left out: {why}", name.to_unicode()));
            Ok(None)
        }
        Err(error) => Err(of_site(&error)),
    }
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

fn tell(looked: &[Looked], desks: &[Desk], language: Language, output: &Output) -> Exit {
    let count = |wanted| looked.iter().filter(|looked| looked.readiness() == wanted).count();
    let names: Vec<_> = looked
        .iter()
        .map(|looked| {
            let mut shown = match &looked.report {
                Ok(report) => json!(report),
                Err(remark) => {
                    let (name, remarks) = (&looked.text, [remark]);
                    json!({ "name": name, "verdict": remark.weight, "remarks": remarks, "addresses": [] })
                }
            };
            shown["ca"] = json!(looked.ca);
            shown
        })
        .collect();
    let of_ca: Vec<&Remark> = desks.iter().flat_map(|desk| &desk.of_ca).collect();
    let mut cas: Vec<&String> = looked.iter().map(|looked| &looked.ca).collect();
    cas.extend(desks.iter().map(|desk| &desk.ca));
    cas.dedup();
    let document = json!({
        // Of all names, where it is one.
        "ca": cas.first().filter(|_| cas.iter().all(|ca| *ca == cas[0])),
        "ready": count(Readiness::Ready),
        "doubtful": count(Readiness::Doubtful),
        "will_fail": count(Readiness::WillFail),
        "ca_remarks": of_ca,
        "names": names,
    });
    output.result(&document, || to_text(looked, &of_ca, language));
    let any_fails =
        count(Readiness::WillFail) > 0 || of_ca.iter().any(|one| one.weight == Readiness::WillFail);
    if any_fails { Exit::Failed } else { Exit::Done }
}

impl Looked {
    fn readiness(&self) -> Readiness {
        self.report.as_ref().map_or_else(|remark| remark.weight, Report::readiness)
    }
}

fn to_text(looked: &[Looked], of_ca: &[&Remark], language: Language) -> String {
    let rows = looked.iter().map(|looked| {
        let (name, way) = match &looked.report {
            Ok(report) => (report.name.to_unicode(), report.ways.first().map(|way| way.way_in(language))),
            Err(_) => (looked.text.clone(), None),
        };
        let is_ready = looked.readiness() == Readiness::Ready;
        let verdict = word(looked.readiness(), language).to_owned();
        vec![name, verdict, way.filter(|_| is_ready).unwrap_or_default()]
    });
    let headings = match language {
        Language::En => ["NAME", "VERDICT", "WAY"],
        Language::Ko => ["이름", "판정", "경로"],
    };
    let mut text = table(&headings, rows);
    for looked in looked {
        let remarks = match &looked.report {
            Ok(report) => report.remarks.as_slice(),
            Err(remark) => std::slice::from_ref(remark),
        };
        for remark in remarks {
            text.push_str(&format!("\n\n{}: {}", looked.text, paragraph(remark, language)));
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
