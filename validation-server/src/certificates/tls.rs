//! The TLS contexts of the listeners. What is shown and whom it trusts can be replaced while connections stay open: a
//! listener's own context is only a front, and takes the present one when a client says hello.

use arc_swap::ArcSwapOption;
use openssl::{
    error::ErrorStack,
    pkey::{PKey, Private},
    ssl::{
        AlpnError, ClientHelloResponse, SslAcceptor, SslAcceptorBuilder, SslContext, SslMethod, SslMode,
        SslOptions, SslSessionCacheMode, SslVerifyMode, select_next_proto,
    },
    x509::{X509, X509Ref, store::X509StoreBuilder},
};
use std::sync::Arc;

/// HTTP/2 is not offered: its connections are not drained when the program ends.
const ALPN: &[u8] = b"\x08http/1.1";

/// What all listeners show at present. Nothing at first: until then no handshake succeeds.
#[derive(Clone, Default)]
pub(crate) struct ServerTls {
    current: Arc<ArcSwapOption<SslContext>>,
}

/// A certificate with its chain, and the key that fits it.
pub(crate) struct Pair {
    /// The leaf first.
    chain: Vec<X509>,
    key: PKey<Private>,
}

/// A certificate and key that can't be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PairError {
    #[error("the certificate can't be read")]
    Certificate(#[source] ErrorStack),
    #[error("there is no certificate in it")]
    Empty,
    #[error("the key can't be read")]
    Key(#[source] ErrorStack),
    #[error("the key does not fit the certificate")]
    Mismatch,
    #[error("the certificate can't be used")]
    Context(#[source] ErrorStack),
}

impl Pair {
    /// # Errors
    /// [`PairError`]; no error shows the key.
    pub(crate) fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, PairError> {
        let chain = X509::stack_from_pem(certificate).map_err(PairError::Certificate)?;
        let key = PKey::private_key_from_pem(key).map_err(PairError::Key)?;
        let leaf = chain.first().ok_or(PairError::Empty)?;
        let fits = leaf.public_key().map_err(PairError::Certificate)?.public_eq(&key);
        if fits { Ok(Self { chain, key }) } else { Err(PairError::Mismatch) }
    }

    pub(crate) fn leaf(&self) -> &X509Ref {
        self.chain.first().expect("a pair is never made without a leaf")
    }
}

impl ServerTls {
    pub(crate) fn is_set(&self) -> bool {
        self.current.load().is_some()
    }

    /// The context of a listener.
    ///
    /// # Errors
    /// OpenSSL refuses it.
    pub(crate) fn front(&self) -> Result<SslAcceptorBuilder, ErrorStack> {
        let mut front = base()?;
        let current = Arc::clone(&self.current);
        front.set_client_hello_callback(move |ssl, _| match &*current.load() {
            Some(context) => {
                ssl.set_ssl_context(context)?;
                Ok(ClientHelloResponse::SUCCESS)
            }
            None => Err(ErrorStack::get()),
        });
        Ok(front)
    }

    /// Shows another certificate from the next handshake on. Clients may show one that `client_ca` signed.
    ///
    /// # Errors
    /// [`PairError::Context`]; then the present one stays.
    pub(crate) fn replace(&self, pair: &Pair, client_ca: Option<&X509Ref>) -> Result<(), PairError> {
        let context = context(pair, client_ca).map_err(PairError::Context)?;
        self.current.store(Some(Arc::new(context)));
        Ok(())
    }
}

fn context(pair: &Pair, client_ca: Option<&X509Ref>) -> Result<SslContext, ErrorStack> {
    let mut builder = base()?;
    builder.set_certificate(pair.leaf())?;
    for above in &pair.chain[1..] {
        builder.add_extra_chain_cert(above.clone())?;
    }
    builder.set_private_key(&pair.key)?;
    builder.check_private_key()?;
    // Never the system's roots: a certificate of the public PKI is no identity here.
    let mut trusted = X509StoreBuilder::new()?;
    if let Some(authority) = client_ca {
        trusted.add_cert(authority.to_owned())?;
        builder.add_client_ca(authority)?;
    }
    builder.set_verify_cert_store(trusted.build())?;
    Ok(builder.build().into_context())
}

/// What front and replacements have in common. The front's options and verify mode are the ones that count; the
/// replacement's ALPN and trust are.
fn base() -> Result<SslAcceptorBuilder, ErrorStack> {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    // Asked for, and verified where shown: a bearer token will do instead.
    builder.set_verify(SslVerifyMode::PEER);
    // A resumed session would keep the identity of a client whose certificate is no longer trusted.
    builder.set_options(SslOptions::NO_TICKET);
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_num_tickets(0)?;
    // Most connections wait most of the time: they need no buffers meanwhile.
    builder.set_mode(SslMode::RELEASE_BUFFERS);
    builder.set_session_id_context(b"signpost")?;
    builder.set_alpn_select_callback(|_, offered| select_next_proto(ALPN, offered).ok_or(AlpnError::NOACK));
    Ok(builder)
}
