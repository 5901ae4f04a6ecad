//! `insieme-backend token`

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use clap::Args;

use super::common::say;
use crate::auth::{Grant, SigningKey, permissions};
use crate::config::settings::Config;
use crate::event::{ClientId, PartitionKey};

/// The longest life of a token that this makes: one that is lost should not be good for ever.
const LIFETIME_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// The longest name that goes into a token, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Make a token for development, and print it.
///
/// It is signed with the secret that frontends are configured with (auth.secret_file), or with a private key
/// whose public half they have. Issuer and audience are the configured ones unless given.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Token {
    /// The client that it is for: the `clientId` of its `connect`.
    #[arg(long, value_name = "ID")]
    client: String,
    /// The user behind the client.
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// What it may do: `read`, an event type, `admin` or `*`, each for one target as in `set:doc.*`. May be
    /// given many times, or with commas.
    #[arg(long = "permission", value_name = "PERMISSION", value_delimiter = ',')]
    permissions: Vec<String>,
    /// A role, which frontends turn into permissions (auth.roles). May be given many times, or with commas.
    #[arg(long = "role", value_name = "NAME", value_delimiter = ',')]
    roles: Vec<String>,
    /// The partition that it is for; with a trailing `*`, all that begin so. May be given many times.
    /// [default: any]
    #[arg(long = "partition", value_name = "PATTERN")]
    partitions: Vec<String>,
    /// How long it is good for: a number with s, m, h or d behind it, at most 366d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_time)]
    lifetime: Duration,
    /// In how long it begins to be good, as in --lifetime. [default: at once]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    not_before: Option<Duration>,
    /// The token's own name (jti).
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The issuer (iss). [default: auth.issuer]
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// The audience (aud). [default: auth.audience]
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    /// A file with the secret to sign with (HS256). [default: auth.secret_file]
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    secret_file: Option<PathBuf>,
    /// A file with the private key to sign with, PEM: RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA).
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The name of the key (kid), by which a key set tells its keys apart.
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,
}

const EXAMPLES: &str = "\
A secret, a frontend that asks for tokens, and one for a client that may do everything in one partition:
  openssl rand -hex 32 > secret
  insieme-backend frontend --set auth.secret_file=secret
  insieme-backend token --secret-file secret --client me --permission '*' --partition default";

impl Token {
    pub(crate) fn run(self, config: &Config) -> anyhow::Result<()> {
        let key = self.key(config)?;
        let key_id = self.key_id.as_deref().map(|id| name("--key-id", id)).transpose()?;
        let token = key.sign(&self.grant(config, now_s()?)?, key_id.as_deref())?;
        say(&token)
    }

    fn key(&self, config: &Config) -> anyhow::Result<SigningKey> {
        if let Some(file) = &self.key_file {
            return SigningKey::private_key(&read("--key-file", file)?)
                .with_context(|| format!("--key-file {}", file.display()));
        }
        let (flag, file) = match (&self.secret_file, &config.auth.secret_file) {
            (Some(file), _) => ("--secret-file", file),
            (None, Some(file)) => ("auth.secret_file", file),
            (None, None) => bail!(
                "there is nothing to sign the token with: give --secret-file (what frontends have as \
                 auth.secret_file), or --key-file with a private key"
            ),
        };
        SigningKey::secret(read(flag, file)?.trim_ascii())
            .with_context(|| format!("{flag} {}", file.display()))
    }

    fn grant(&self, config: &Config, now: u64) -> anyhow::Result<Grant> {
        ensure!(
            !(self.permissions.is_empty() && self.roles.is_empty()),
            "a token without permissions is good for nothing: give at least --permission read, or a --role"
        );
        for permission in &self.permissions {
            permissions::check(permission).map_err(|why| anyhow::anyhow!("--permission: {why}"))?;
        }
        for pattern in &self.partitions {
            let beginning = pattern.strip_suffix('*').unwrap_or(pattern);
            ensure!(!pattern.is_empty(), "--partition: an empty pattern; for any partition, leave it out");
            ensure!(
                !beginning.contains('*'),
                "--partition {pattern:?}: a `*` stands at the end, for all that begin so"
            );
            PartitionKey::new(beginning).with_context(|| format!("--partition {pattern:?}"))?;
        }
        let before = self.not_before.unwrap_or_default();
        ensure!(
            before < self.lifetime,
            "--not-before is not before the token's end: it begins in {before:?}, and ends in {:?}",
            self.lifetime
        );
        let optional =
            |flag: &str, own: &Option<String>| own.as_deref().map(|own| name(flag, own)).transpose();
        Ok(Grant {
            client_id: ClientId::new(self.client.as_str()).context("--client")?,
            user_id: optional("--user", &self.user)?,
            permissions: self.permissions.clone(),
            roles: self.roles.iter().map(|role| name("--role", role)).collect::<Result<_, _>>()?,
            partitions: self.partitions.clone(),
            token_id: optional("--id", &self.id)?,
            issuer: optional("--issuer", &self.issuer)?.or_else(|| config.auth.issuer.clone()),
            audience: optional("--audience", &self.audience)?.or_else(|| config.auth.audience.clone()),
            issued_at: now,
            not_before: self.not_before.map(|wait| now + wait.as_secs()),
            expires_at: now + self.lifetime.as_secs(),
        })
    }
}

fn name(flag: &str, name: &str) -> anyhow::Result<String> {
    ensure!(!name.trim().is_empty(), "{flag}: it is empty");
    ensure!(name.len() <= NAME_BYTES_MAX, "{flag}: longer than {NAME_BYTES_MAX} bytes");
    Ok(name.to_owned())
}

fn read(flag: &str, file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("{flag} {}", file.display()))
}

fn now_s() -> anyhow::Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
    Ok(since.as_secs())
}

/// A time such as 90m.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("a time is a number followed by s, m, h or d, such as 90m; not {text:?}");
    let at = text.len() - text.chars().next_back().map_or(0, char::len_utf8);
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    match number.checked_mul(seconds).map(Duration::from_secs) {
        Some(time) if time > LIFETIME_MAX => Err("at most 366d".to_owned()),
        Some(time) if time.is_zero() => Err("at least 1s".to_owned()),
        Some(time) => Ok(time),
        None => Err("at most 366d".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_a_number_and_a_unit() {
        let good = [("90s", 90), ("30m", 1800), ("12h", 43_200), ("7d", 604_800), ("366d", 31_622_400)];
        for (text, seconds) in good {
            assert_eq!(parse_time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "s", "5", "-1s", "1.5h", "0s", "367d", "99999999999999999999d", "1w", "1é", "1 h"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
