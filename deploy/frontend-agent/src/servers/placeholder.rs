//! The certificate of nobody: what a name that is gone leads to for as long as a server's own configuration may name its file. A
//! server that does not find a file ends at its next start, with all that it serves.

use crate::{disk::Directory, publish::file_names, verify::Pair};
use openssl::{
    asn1::Asn1Time,
    bn::{BigNum, MsbOption},
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::PKey,
    x509::{X509, X509Name},
};
use shared::domain::{Leaf, Slot};
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// A directory below the adapter's, with the files of a version.
pub(super) const NOBODY: &str = "nobody";
const NAME: &str = "no-longer-served.invalid";
const DAYS: u32 = 36_500;

/// Where it is. It is made where it is not there.
///
/// # Errors
/// From the file system, or OpenSSL.
pub(super) fn directory(directory: &Directory, adapter: &str) -> io::Result<PathBuf> {
    let own = directory.of_adapter(adapter);
    let path = own.join(NOBODY);
    let wanted = directory.formats().iter().map(|format| format.file_name(Slot::Ecdsa));
    if wanted.chain(["privkey.pem".to_owned()]).all(|name| path.join(name).is_file()) {
        return Ok(path);
    }
    let new = own.join(".nobody.new");
    for old in [&new, &path] {
        match fs::remove_dir_all(old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    directory.make_directory(&new)?;
    write(directory, &new)?;
    directory.sync()?;
    fs::rename(&new, &path)?;
    crate::disk::sync_directory(&own)?;
    Ok(path)
}

fn write(directory: &Directory, path: &Path) -> io::Result<()> {
    let pair = pair()?;
    for prefix in ["", "ecdsa-", "rsa-"] {
        directory.create_public_file(&path.join(format!("{prefix}fullchain.pem")), &pair.fullchain)?;
        directory.create_key_file(&path.join(format!("{prefix}privkey.pem")), &pair.privkey)?;
    }
    debug_assert!(path.join(file_names(Slot::Rsa).0).exists());
    for format in directory.formats() {
        let content = format.render(&pair, &[NAME.to_owned()])?;
        for slot in Slot::ALL {
            directory.create_key_file(&path.join(format.file_name(slot)), &content)?;
        }
    }
    Ok(())
}

/// Signed by itself, for a name that nobody can have (RFC 2606).
fn pair() -> io::Result<Pair> {
    let key = PKey::from_ec_key(EcKey::generate(&*EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?)?)?;
    let mut name = X509Name::builder()?;
    name.append_entry_by_nid(Nid::COMMONNAME, NAME)?;
    let name = name.build();
    let mut serial = BigNum::new()?;
    serial.rand(126, MsbOption::ONE, false)?;
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(&*serial.to_asn1_integer()?)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_pubkey(&key)?;
    builder.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    builder.set_not_after(&*Asn1Time::days_from_now(DAYS)?)?;
    let names = openssl::x509::extension::SubjectAlternativeName::new()
        .dns(NAME)
        .build(&builder.x509v3_context(None, None))?;
    builder.append_extension(names)?;
    builder.sign(&key, MessageDigest::sha256())?;
    let certificate = builder.build();
    Ok(Pair {
        slot: Slot::Ecdsa,
        fullchain: certificate.to_pem()?,
        privkey: Zeroizing::new(key.private_key_to_pem_pkcs8()?),
        leaf: Leaf::of(&certificate).map_err(io::Error::other)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::StoreConfig, formats::Format};

    #[test]
    fn it_is_made_once_in_every_format() {
        let root = tempfile::tempdir().unwrap();
        let mut config = StoreConfig::at(root.path().join("agent"));
        let path = |config: &StoreConfig| {
            let directory = Directory::open(config).unwrap();
            fs::create_dir_all(directory.of_adapter("files")).unwrap();
            super::directory(&directory, "files").unwrap()
        };
        let key = fs::read(path(&config).join("rsa-privkey.pem")).unwrap();
        assert_eq!(fs::read(path(&config).join("rsa-privkey.pem")).unwrap(), key);
        config.formats = vec![Format::Combined];
        let combined = fs::read(path(&config).join("combined.pem.rsa")).unwrap();
        let leaf = X509::from_pem(&combined).unwrap();
        assert!(leaf.public_key().unwrap().public_eq(&PKey::private_key_from_pem(&combined).unwrap()));
    }
}
