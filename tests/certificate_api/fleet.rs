//! A store with sites and frontends in it, written the way an issuer writes it, and the role in front of it.

use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use harness::{
    pki::Authority,
    raw_http::{Answer, connect, exchange},
    redis::{Redis, RedisOptions},
    rights,
    signpost::{Daemon, Signpost},
};
use openssl::{
    ec::{EcGroup, EcKey},
    nid::Nid,
    pkey::{PKey, Private},
    rsa::Rsa,
    sha::sha256,
    ssl::{SslConnector, SslConnectorBuilder, SslMethod, SslStream},
    x509::X509,
};
use shared::{
    config::Config,
    domain::{
        AuditCheck, AuditEntry, Certificate, Class, DnsName, Frontend, Groups, KeyType, Leaf, NameSet, Order,
        Place, Planned, Right, Scope, Site, SiteId, Stored,
    },
    store::{
        AuditId, LeaseAnswer, Owner, Role, Settlement, SiteChange, Store, WantedSite, lineage_of, open_vault,
    },
    tls::{InternalCa, KeyPair},
    vault::{Binding, Keyring, SealedKind, Vault},
};

pub(crate) const KEYS: &[Right] = &[Right::ReadCert, Right::ReadKey];
pub(crate) const CERTS: &[Right] = &[Right::ReadCert];

/// The store, and an installation that reads it, each program with the rights of its role.
pub(crate) struct Fleet {
    pub(crate) redis: Redis,
    pub(crate) signpost: Signpost,
    pub(crate) store: Store,
    pub(crate) internal_ca: InternalCa,
    vault: Arc<Vault>,
    public_ca: Authority,
}

enum SiteGroups {
    Kept,
    None,
}

/// How a request says who sends it.
#[derive(Clone)]
pub(crate) enum Identity {
    Nobody,
    /// The value of the `Authorization` header.
    Header(String),
    Key(Arc<KeyPair>),
}

impl Identity {
    pub(crate) fn token(token: &str) -> Self {
        Self::Header(format!("Bearer {token}"))
    }
}

impl Fleet {
    pub(crate) async fn new() -> Result<Self> {
        let options = RedisOptions { acl: Some(rights::acl_file()?), ..RedisOptions::default() };
        let redis = Redis::start(options).await?;
        let mut signpost = Signpost::new()?;
        signpost.use_store(&redis.url())?;
        // The test does what it likes; the programs what their roles may.
        for (program, role) in [("issuer", "issuer"), ("validation-server", "certificates")] {
            let url = redis.url_as(role, rights::PASSWORD);
            signpost.set_environment_of(program, "SIGNPOST_STORE__URL", &url);
        }
        Keyring::generate(&signpost.directory().join("kek"))?;
        let config = Config::load(Some(signpost.config_path()))?;
        let store = Store::open(&config.store, Role::Issuer).await?;
        store.check(0).await?;
        let (vault, _) = open_vault(&store, &config.store).await?;
        let internal_ca = InternalCa::of(&store, &vault).await?;
        let public_ca = Authority::new("Public CA of the test")?;
        Ok(Self { redis, signpost, store, internal_ca, vault, public_ca })
    }

    pub(crate) async fn start(&self) -> Result<Daemon> {
        self.signpost.start_certificates().await
    }

    /// A site with a certificate for each key type, published, and led to by its names. Called again, it is renewed.
    pub(crate) async fn add_site(
        &self,
        names: &[&str],
        tags: &[&str],
        key_types: &[KeyType],
    ) -> Result<SiteId> {
        let parsed: Vec<DnsName> =
            names.iter().map(|name| DnsName::parse_identifier(name)).collect::<Result<_, _>>()?;
        let names = NameSet::new(parsed)?;
        let now = jiff::Timestamp::now();
        let tags = tags.iter().map(ToString::to_string).collect();
        let site = Site { tags, ..Site::new(names.clone(), key_types, "test", "default", now) };
        let id = SiteId::of(&names);
        let owner = Owner::this_process();
        let length = Duration::from_secs(60);
        let LeaseAnswer::Acquired(lease) =
            self.store.acquire_lease(&id, &site, &owner, &owner.attempt(), length).await?
        else {
            bail!("somebody else works on the site");
        };
        let mut published = Vec::new();
        for key_type in key_types {
            let certificate = self.certificate(&id, &names, *key_type)?;
            let order = Order {
                v: Order::VERSION,
                names: names.clone(),
                key_type: *key_type,
                ca: "test".into(),
                account: "default".into(),
                account_url: None,
                profile: None,
                created: now,
                stuck: None,
                state: Planned {}.into(),
            };
            let order = self.store.begin_order(&lease, order).await?;
            let stored = Stored { certificate: certificate.id() };
            self.store.store_certificate(&lease, &order, &certificate, stored).await?;
            published.push((key_type.slot(), certificate.id()));
        }
        let stored = self.store.load_site(&id).await?.context("the site was just made")?;
        let serving = stored.serving.with(&published.iter().cloned().collect(), &[]);
        self.store.publish(&lease, &serving, &[], &[]).await?;
        self.store.point_names(names.as_slice(), &id).await?;
        let later = now + jiff::SignedDuration::from_hours(24);
        let place = Place {
            class: Class::Renewal,
            moment: later,
            deadline: later,
            urgent_from: None,
            renewal: Some(later),
        };
        let done = published.into_iter().map(|(slot, certificate)| (slot, Some(certificate))).collect();
        let settlement = Settlement { revision: 0, place, done, fields: Vec::new(), events: Vec::new() };
        self.store.settle(&lease, &settlement).await?;
        Ok(id)
    }

    /// Another wanted state for a site, nothing to be done for it.
    pub(crate) async fn change_site(&self, id: &SiteId, change: impl FnOnce(&mut Site)) -> Result<()> {
        let before = self.store.load_wanted(id).await?.context("no such site")?;
        let mut site = before.site.clone();
        change(&mut site);
        self.put_site(id, SiteGroups::Kept, before, site).await
    }

    /// The site is not wanted any more.
    pub(crate) async fn retire_site(&self, id: &SiteId) -> Result<()> {
        let before = self.store.load_wanted(id).await?.context("no such site")?;
        let site = before.site.clone();
        self.put_site(id, SiteGroups::None, before, site).await
    }

    async fn put_site(&self, id: &SiteId, groups: SiteGroups, before: WantedSite, site: Site) -> Result<()> {
        let later = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
        let place =
            Place { class: Class::Check, moment: later, deadline: later, urgent_from: None, renewal: None };
        let groups = match groups {
            SiteGroups::Kept => before.groups.clone(),
            SiteGroups::None => Groups::default(),
        };
        let change = SiteChange {
            id: id.clone(),
            before: Some(before),
            site,
            groups,
            retired: place,
            force: None,
            remembered: Default::default(),
            place,
            touched: Vec::new(),
            events: Vec::new(),
        };
        Ok(self.store.put_site(&change).await?)
    }

    fn certificate(&self, id: &SiteId, names: &NameSet, key_type: KeyType) -> Result<Certificate> {
        let key = new_key(key_type)?;
        let names: Vec<&str> = names.iter().map(DnsName::as_str).collect();
        let pair = self.public_ca.issue_server_for(&names, &key)?;
        let x509 = X509::from_pem(&pair.certificate_pem)?;
        let lineage = lineage_of(id, key_type.slot());
        let spki_sha256 = Leaf::of(&x509)?.spki_sha256;
        let binding =
            Binding { kind: SealedKind::CertificateKey, owner: &lineage, spki_sha256: &spki_sha256 };
        Ok(Certificate {
            leaf_der: x509.to_der()?,
            chain_pem: String::from_utf8(self.public_ca.pem()?)?,
            sealed_key: self.vault.seal(&key.private_key_to_pkcs8()?, &binding)?,
            key_type,
            ca: "test".into(),
            account: "default".into(),
            issued: jiff::Timestamp::now(),
            known: None,
        })
    }

    /// A frontend with the bearer token `NAME-token-0123456789`.
    pub(crate) async fn add_frontend(
        &self,
        name: &str,
        patterns: &[&str],
        tags: &[&str],
        rights: &[Right],
    ) -> Result<Identity> {
        let token = format!("{name}-token-0123456789");
        let mut frontend = frontend(name, patterns, tags, rights)?;
        frontend.token_sha256 = Some(hex(&sha256(token.as_bytes())));
        self.store.write_frontend(&frontend).await?;
        Ok(Identity::token(&token))
    }

    /// A frontend with a client certificate of the internal CA.
    pub(crate) async fn add_frontend_with_key(
        &self,
        name: &str,
        patterns: &[&str],
        rights: &[Right],
    ) -> Result<Identity> {
        let mut frontend = frontend(name, patterns, &[], rights)?;
        let pair = self.internal_ca.issue_client(&frontend.name)?;
        frontend.spki_sha256 = Some(pair.spki_sha256.clone());
        self.store.write_frontend(&frontend).await?;
        Ok(Identity::Key(pair.into()))
    }

    /// Changes the record of a frontend.
    pub(crate) async fn change_frontend(&self, name: &str, change: impl Fn(&mut Frontend)) -> Result<()> {
        let name = name.parse()?;
        let change = |frontend: &mut Frontend| {
            change(frontend);
            true
        };
        self.store.change_frontend(&name, change).await?.context("no such frontend").map(drop)
    }

    pub(crate) async fn revoke(&self, name: &str) -> Result<()> {
        self.change_frontend(name, |frontend| frontend.revoked = Some(jiff::Timestamp::now())).await
    }

    /// A connection as this identity: verified against the internal CA, with its certificate where it has one.
    pub(crate) fn connect(&self, address: SocketAddr, identity: &Identity) -> Result<SslStream<TcpStream>> {
        let mut connector = self.connector()?;
        if let Identity::Key(pair) = identity {
            let chain = X509::stack_from_pem(pair.certificate_pem.as_bytes())?;
            connector.set_certificate(chain.first().context("an empty chain")?)?;
            connector.set_private_key(&*PKey::private_key_from_pem(&pair.key_pem)?)?;
        }
        let stream = connect(address)?;
        Ok(connector.build().connect("localhost", stream)?)
    }

    /// Trusts the internal CA and nothing else.
    pub(crate) fn connector(&self) -> Result<SslConnectorBuilder> {
        let mut connector = SslConnector::builder(SslMethod::tls_client())?;
        let mut trusted = openssl::x509::store::X509StoreBuilder::new()?;
        trusted.add_cert(self.internal_ca.certificate().clone())?;
        connector.set_cert_store(trusted.build());
        Ok(connector)
    }

    /// One request on a connection of its own.
    pub(crate) fn get(&self, address: SocketAddr, identity: &Identity, path: &str) -> Result<Answer> {
        let mut stream = self.connect(address, identity)?;
        ask(&mut stream, identity, "GET", path, "")
    }

    /// The audit, which must be whole.
    pub(crate) async fn audit(&self) -> Result<Vec<AuditEntry>> {
        let mut check = AuditCheck::default();
        let page = self.store.load_audit(AuditId::default(), 1_000).await?;
        let entries = page.lines.iter().map(|(_, text)| {
            let entry = check.take(text)?.context("a line is there twice")?.entry;
            ensure!(entry.from == "127.0.0.1", "{entry:?}");
            Ok(entry)
        });
        let entries = entries.collect::<Result<_>>()?;
        ensure!(check.begun_late.is_empty(), "{check:?}");
        Ok(entries)
    }
}

/// One request with a body, on a connection of its own.
pub(crate) fn post(
    fleet: &Fleet,
    address: SocketAddr,
    identity: &Identity,
    path: &str,
    body: &[u8],
) -> Result<Answer> {
    let mut stream = fleet.connect(address, identity)?;
    let mut request =
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n", body.len());
    if let Identity::Header(value) = identity {
        request.push_str(&format!("authorization: {value}\r\n"));
    }
    request.push_str("\r\n");
    let request = [request.as_bytes(), body].concat();
    exchange(&mut stream, &request)?.with_context(|| format!("{path}: closed without an answer"))
}

/// One request on an open connection. `headers` are whole lines.
pub(crate) fn ask(
    stream: &mut SslStream<TcpStream>,
    identity: &Identity,
    method: &str,
    path: &str,
    headers: &str,
) -> Result<Answer> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}");
    if let Identity::Header(value) = identity {
        request.push_str(&format!("authorization: {value}\r\n"));
    }
    request.push_str("\r\n");
    exchange(stream, request.as_bytes())?.with_context(|| format!("{path}: closed without an answer"))
}

fn frontend(name: &str, patterns: &[&str], tags: &[&str], rights: &[Right]) -> Result<Frontend> {
    let names = patterns.iter().map(|pattern| pattern.parse()).collect::<Result<_, _>>()?;
    let scope = Scope { names, tags: tags.iter().map(ToString::to_string).collect() };
    let rights = rights.iter().copied().collect();
    Ok(Frontend::new(name.parse()?, scope, rights, jiff::Timestamp::now()))
}

fn new_key(key_type: KeyType) -> Result<PKey<Private>> {
    let of_curve = |curve| PKey::from_ec_key(EcKey::generate(&*EcGroup::from_curve_name(curve)?)?);
    let of_bits = |bits| PKey::from_rsa(Rsa::generate(bits)?);
    Ok(match key_type {
        KeyType::EcdsaP256 => of_curve(Nid::X9_62_PRIME256V1)?,
        KeyType::EcdsaP384 => of_curve(Nid::SECP384R1)?,
        KeyType::Rsa2048 => of_bits(2048)?,
        KeyType::Rsa3072 => of_bits(3072)?,
        KeyType::Rsa4096 => of_bits(4096)?,
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
