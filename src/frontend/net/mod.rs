//! The connection below HTTP: client addresses, origins, TLS and the byte stream.

mod address;
mod cert_expiry;
mod origin;
pub(crate) mod proxy_protocol;
mod stream;
mod tls;

pub(crate) use address::{AddressKey, Proxies};
pub(crate) use origin::Origins;
pub(crate) use stream::Stream;
pub(crate) use tls::{Fingerprint, Tls};
