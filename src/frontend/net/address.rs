//! Whose a connection is, as far as its address tells.
//!
//! Whoever has one IPv6 address has at least 2^64 of them, so those count by their /64 network. Behind a
//! proxy all connections come from the proxy: what it says of the client's address is taken, if it is one of
//! those that the operator trusts, and only the last word of it, since anybody can write the ones before.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What connections of one address are counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AddressKey(IpAddr);

impl AddressKey {
    /// The key of an address.
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (!0 << 64))),
            v4 => v4,
        })
    }
}

impl std::fmt::Display for AddressKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => v4.fmt(f),
            IpAddr::V6(v6) => write!(f, "{v6}/64"),
        }
    }
}

/// The proxies that are believed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies(Vec<Network>);

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy)]
struct Network {
    address: IpAddr,
    bits: u32,
}

impl Proxies {
    /// Reads addresses (`10.0.0.7`) and networks (`10.0.0.0/8`); an error names the one that is neither.
    pub(crate) fn parse(texts: &[String]) -> Result<Self, String> {
        texts.iter().map(|text| Network::parse(text)).collect::<Result<_, _>>().map(Self)
    }

    /// The client's address, of a connection that comes from `peer` and carries these `X-Forwarded-For`
    /// headers, joined by commas.
    pub(crate) fn client(&self, peer: IpAddr, forwarded_for: &str) -> IpAddr {
        let mut address = peer.to_canonical();
        // From the last word to the first, for as long as each is a trusted proxy's.
        for word in forwarded_for.rsplit(',') {
            if !self.trusts(address) {
                break;
            }
            match forwarded(word) {
                Some(before) => address = before.to_canonical(),
                None => break,
            }
        }
        address
    }

    /// Whether an address is a trusted proxy's.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address.to_canonical()))
    }
}

/// The address in a word of `X-Forwarded-For`: alone, or with a port, and of IPv6 then in brackets; some put it in
/// quotes.
fn forwarded(word: &str) -> Option<IpAddr> {
    let word = word.trim().trim_matches('"');
    if let Ok(address) = word.parse() {
        return Some(address);
    }
    if let Ok(with_port) = word.parse::<SocketAddr>() {
        return Some(with_port.ip());
    }
    word.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

impl Network {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither an address nor a network such as 10.0.0.0/8");
        let (address, bits) = match text.trim().split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().map_err(|_| wrong())?)),
            None => (text.trim(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(all);
        if bits > all { Err(wrong()) } else { Ok(Self { address, bits }) }
    }

    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differ = ours.to_bits() ^ theirs.to_bits();
                differ.checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differ = ours.to_bits() ^ theirs.to_bits();
                differ.checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let key = |text| AddressKey::of(ip(text));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1:2:3"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_its_own_word() {
        let proxies = Proxies::parse(&["10.0.0.0/8".into(), "fd00::1".into()]).unwrap();
        assert_eq!(proxies.client(ip("10.1.2.3"), "6.6.6.6, 1.2.3.4"), ip("1.2.3.4"));
        assert_eq!(proxies.client(ip("10.1.2.3"), "1.2.3.4, 10.9.9.9"), ip("1.2.3.4"));
        assert_eq!(proxies.client(ip("9.9.9.9"), "1.2.3.4"), ip("9.9.9.9"));
        assert_eq!(proxies.client(ip("10.1.2.3"), ""), ip("10.1.2.3"));
        assert_eq!(proxies.client(ip("10.1.2.3"), "1.2.3.4, who"), ip("10.1.2.3"));
        assert_eq!(proxies.client(ip("fd00::1"), "2001:db8::7"), ip("2001:db8::7"));
        assert_eq!(proxies.client(ip("::ffff:10.0.0.1"), "1.2.3.4"), ip("1.2.3.4"));
        for (word, address) in [
            ("1.2.3.4:5678", "1.2.3.4"),
            ("[2001:db8::7]:443", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("\"[2001:db8::7]:443\"", "2001:db8::7"),
            ("6.6.6.6:1, 1.2.3.4:80, 10.9.9.9:81", "1.2.3.4"),
            // Not an address: the proxy's own counts.
            ("1.2.3.4:", "10.1.2.3"),
            ("1.2.3.4:x", "10.1.2.3"),
            ("[1.2.3.4]:80", "10.1.2.3"),
            ("[2001:db8::7", "10.1.2.3"),
            ("unknown", "10.1.2.3"),
        ] {
            assert_eq!(proxies.client(ip("10.1.2.3"), word), ip(address), "{word}");
        }
        let all = Proxies::parse(&["0.0.0.0/0".into()]).unwrap();
        assert!(all.trusts(ip("255.1.1.1")) && !all.trusts(ip("::1")));
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "host", "::/129", "1.1.1.1/x"] {
            assert!(Proxies::parse(&[wrong.into()]).unwrap_err().contains("such as"), "{wrong}");
        }
    }
}
