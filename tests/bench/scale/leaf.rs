//! Leaves the size and shape of Let's Encrypt's: every extension that those carry, and what differs between two of them (serial,
//! key, dates, log entries, signature) different in each of these too, so that nothing is saved here that isn't saved there.

use anyhow::{Context as _, Result, ensure};
use openssl::{
    asn1::{Asn1Integer, Asn1Object, Asn1OctetString, Asn1Time},
    bn::BigNum,
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    rand::rand_bytes,
    sha::{sha1, sha256},
    sign::Signer,
    x509::{
        X509, X509Builder, X509Extension, X509NameBuilder,
        extension::{BasicConstraints, KeyUsage},
    },
};

/// Keys of the fleet: enough that no two neighbours share one, few enough to be made in a second.
const KEYS: usize = 512;
const SCTS: usize = 2;
/// RFC 6962 section 3.3: two lengths, version, log, timestamp, extensions, algorithms, then the signature's length and DER.
const SCT_BYTES: usize = 2 + 1 + 32 + 8 + 2 + 2 + 2 + 71;
/// Logs that a CA submits to in the same weeks.
const LOGS: usize = 6;

/// Makes leaves.
pub(crate) struct Mint {
    template: Vec<u8>,
    places: Places,
    keys: Vec<Key>,
    logs: Vec<[u8; 32]>,
    /// Signs each leaf; without it, a signature is drawn: as long, and good for whoever looks at none.
    signer: Option<PKey<Private>>,
    pub(crate) chain_pem: String,
}

/// A key of the pool.
pub(crate) struct Key {
    pub(crate) pkcs8: Vec<u8>,
    pub(crate) spki_sha256: String,
    point: Vec<u8>,
}

/// Where in the template stands what differs.
struct Places {
    serial: usize,
    not_before: usize,
    not_after: usize,
    point: usize,
    subject_key_id: usize,
    name: usize,
    scts: usize,
    signature: [usize; 2],
}

impl Mint {
    /// For names as long as this one. `signed`: leaves that somebody verifies.
    pub(crate) fn open(name: &str, signed: bool) -> Result<Self> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        let keys = (0..KEYS)
            .map(|_| {
                let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
                let spki = key.public_key_to_der()?;
                let spki_sha256 = sha256(&spki).iter().map(|byte| format!("{byte:02x}")).collect();
                let point = spki[spki.len() - 65..].to_vec();
                Ok(Key { pkcs8: key.private_key_to_pkcs8()?, spki_sha256, point })
            })
            .collect::<Result<Vec<_>>>()?;
        let root_key = authority_key()?;
        let issuer_key = authority_key()?;
        let root = authority(("Internet Security Research Group", "ISRG Root X2"), &root_key, None)?;
        let issuer = authority(("Let's Encrypt", "E7"), &issuer_key, Some((&root, &root_key)))?;
        let chain_pem = String::from_utf8([issuer.to_pem()?, root.to_pem()?].concat())?;
        let logs = (0..LOGS).map(|_| random::<32>()).collect::<Result<_>>()?;

        let serial = [6; 18];
        let subject_key_id = [0xA5; 20];
        let scts = vec![0x5A; SCT_BYTES * SCTS];
        let key = PKey::private_key_from_pkcs8(&keys[0].pkcs8)?;
        let template = leaf(name, &serial, &key, &subject_key_id, &scts, (&issuer, &issuer_key))?;
        let template = template.to_der()?;
        let of = |bytes: &[u8]| find(&template, bytes);
        // ecdsa-with-SHA384, then BIT STRING { SEQUENCE { INTEGER r, INTEGER s } }.
        let signature = template.len() - 48;
        let validity = of(b"\x17\x0d")?;
        let places = Places {
            serial: of(&serial)?,
            not_before: validity + 2,
            not_after: validity + 17,
            point: of(&keys[0].point)?,
            subject_key_id: of(&subject_key_id)?,
            name: of(name.as_bytes())?,
            scts: of(&scts)?,
            signature: [signature - 52, signature],
        };
        let signer = signed.then_some(issuer_key);
        Ok(Self { template, places, keys, logs, signer, chain_pem })
    }

    pub(crate) fn leaf_bytes(&self) -> usize {
        self.template.len()
    }

    /// The leaf of a name, and its key. The same number gives the same key.
    pub(crate) fn leaf(&self, number: usize, name: &str) -> Result<(Vec<u8>, &Key)> {
        let places = &self.places;
        let key = &self.keys[number % self.keys.len()];
        let mut leaf = self.template.clone();
        let mut put = |place: usize, bytes: &[u8]| leaf[place..place + bytes.len()].copy_from_slice(bytes);
        // The first two octets are the same in all serials of a CA.
        put(places.serial + 2, &random::<16>()?);
        // Within the hour before the template's.
        let minute_second = format!("{:02}{:02}Z", number / 60 % 60, number % 60);
        put(places.not_before + 8, minute_second.as_bytes());
        put(places.not_after + 8, minute_second.as_bytes());
        put(places.point, &key.point);
        put(places.subject_key_id, &sha1(&key.point));
        ensure!(name.len() == self.name_bytes(), "names of different lengths");
        put(places.name, name.as_bytes());
        for sct in 0..SCTS {
            let mut entry = Vec::with_capacity(SCT_BYTES);
            entry.extend_from_slice(&u16::try_from(SCT_BYTES - 2)?.to_be_bytes());
            entry.push(0);
            entry.extend_from_slice(&self.logs[(number * SCTS + sct * 3) % LOGS]);
            entry.extend_from_slice(&[0, 0, 1, 0x9A]);
            entry.extend_from_slice(&random::<4>()?);
            entry.extend_from_slice(&[0, 0, 4, 3, 0, 71, 0x30, 69, 2, 32]);
            entry.extend_from_slice(&random::<32>()?);
            entry.extend_from_slice(&[2, 33, 0]);
            entry.extend_from_slice(&random::<32>()?);
            entry.truncate(SCT_BYTES);
            put(places.scts + sct * SCT_BYTES, &entry);
        }
        for place in places.signature {
            put(place + 2, &random::<46>()?);
        }
        let leaf = match &self.signer {
            Some(signer) => signed(&leaf, signer)?,
            None => leaf,
        };
        Ok((leaf, key))
    }

    fn name_bytes(&self) -> usize {
        // dNSName's length stands before it.
        usize::from(self.template[self.places.name - 1])
    }
}

/// The same certificate with a signature of its own.
fn signed(leaf: &[u8], signer: &PKey<Private>) -> Result<Vec<u8>> {
    // Two SEQUENCEs of more than 255 bytes begin it: four bytes of tag and length each.
    let length = usize::from(u16::from_be_bytes([leaf[6], leaf[7]]));
    let (body, rest) = leaf[4..].split_at(4 + length);
    let algorithm = &rest[..2 + usize::from(rest[1])];
    let signature = Signer::new(MessageDigest::sha384(), signer)?.sign_oneshot_to_vec(body)?;
    Ok(der(0x30, &[body, algorithm, &der(3, &[&[0], &signature])]))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rand_bytes(&mut bytes)?;
    Ok(bytes)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Result<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted).context("the template lacks a part")
}

fn authority_key() -> Result<PKey<Private>> {
    let group = EcGroup::from_curve_name(Nid::SECP384R1)?;
    Ok(PKey::from_ec_key(EcKey::generate(&group)?)?)
}

fn named(organisation: &str, common_name: &str) -> Result<openssl::x509::X509Name> {
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_text("C", "US")?;
    name.append_entry_by_text("O", organisation)?;
    name.append_entry_by_text("CN", common_name)?;
    Ok(name.build())
}

fn authority(
    (organisation, common_name): (&str, &str),
    key: &PKey<Private>,
    issuer: Option<(&X509, &PKey<Private>)>,
) -> Result<X509> {
    let mut builder = begun(&random::<16>()?, 3000, key)?;
    builder.set_subject_name(&*named(organisation, common_name)?)?;
    match issuer {
        Some((issuer, _)) => builder.set_issuer_name(issuer.subject_name())?,
        None => builder.set_issuer_name(&*named(organisation, common_name)?)?,
    }
    builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
    builder.sign(issuer.map_or(key, |(_, key)| key), MessageDigest::sha384())?;
    Ok(builder.build())
}

fn begun(serial: &[u8], days: u32, key: &PKey<Private>) -> Result<X509Builder> {
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    let serial = Asn1Integer::from_bn(&*BigNum::from_slice(serial)?)?;
    builder.set_serial_number(&serial)?;
    let hour_ago = jiff::Timestamp::now().as_second() - 2 * 3600;
    builder.set_not_before(&*Asn1Time::from_unix(hour_ago)?)?;
    builder.set_not_after(&*Asn1Time::from_unix(hour_ago + i64::from(days) * 86_400)?)?;
    builder.set_pubkey(key)?;
    Ok(builder)
}

fn leaf(
    name: &str,
    serial: &[u8],
    key: &PKey<Private>,
    subject_key_id: &[u8; 20],
    scts: &[u8],
    (issuer, issuer_key): (&X509, &PKey<Private>),
) -> Result<X509> {
    let mut builder = begun(serial, 90, key)?;
    builder.set_subject_name(&X509NameBuilder::new()?.build())?;
    builder.set_issuer_name(issuer.subject_name())?;
    builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
    // serverAuth, clientAuth
    extension(
        &mut builder,
        "2.5.29.37",
        &der(0x30, &[&oid("1.3.6.1.5.5.7.3.1")?, &oid("1.3.6.1.5.5.7.3.2")?]),
    )?;
    builder.append_extension(BasicConstraints::new().critical().build()?)?;
    extension(&mut builder, "2.5.29.14", &der(4, &[subject_key_id]))?;
    extension(&mut builder, "2.5.29.35", &der(0x30, &[&der(0x80, &[&random::<20>()?])]))?;
    let access = der(0x30, &[&oid("1.3.6.1.5.5.7.48.2")?, &der(0x86, &[b"http://e7.i.lencr.org/"])]);
    extension(&mut builder, "1.3.6.1.5.5.7.1.1", &der(0x30, &[&access]))?;
    let critical = Asn1OctetString::new_from_bytes(&der(0x30, &[&der(0x82, &[name.as_bytes()])]))?;
    let alternative = Asn1Object::from_str("2.5.29.17")?;
    builder.append_extension(X509Extension::new_from_der(&alternative, true, &critical)?)?;
    extension(&mut builder, "2.5.29.32", &der(0x30, &[&der(0x30, &[&oid("2.23.140.1.2.1")?])]))?;
    let list = der(0x86, &[b"http://e7.c.lencr.org/33.crl"]);
    let point = der(0x30, &[&der(0xA0, &[&der(0xA0, &[&list])])]);
    extension(&mut builder, "2.5.29.31", &der(0x30, &[&point]))?;
    let length = u16::try_from(scts.len())?.to_be_bytes();
    extension(&mut builder, "1.3.6.1.4.1.11129.2.4.2", &der(4, &[&length, scts]))?;
    builder.sign(issuer_key, MessageDigest::sha384())?;
    Ok(builder.build())
}

fn extension(builder: &mut X509Builder, kind: &str, value: &[u8]) -> Result<()> {
    let (kind, value) = (Asn1Object::from_str(kind)?, Asn1OctetString::new_from_bytes(value)?);
    builder.append_extension(X509Extension::new_from_der(&kind, false, &value)?)?;
    Ok(())
}

fn oid(text: &str) -> Result<Vec<u8>> {
    Ok(der(6, &[Asn1Object::from_str(text)?.as_slice()]))
}

/// A value with its tag and length, of at most 65,535 bytes.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let value = parts.concat();
    let mut out = vec![tag];
    match value.len() {
        length @ 0..=0x7F => out.push(length as u8),
        length @ 0x80..=0xFF => out.extend([0x81, length as u8]),
        length => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend(value);
    out
}
