//! How we show NATS who we are. What lies in a file is read again at every connection: a password, a seed or a
//! credentials file that was changed counts from the next connection on, without a restart.

use std::fmt;
use std::path::{Path, PathBuf};

use async_nats::{Auth, AuthError};

/// Who we are to NATS.
#[derive(Clone)]
pub enum Credentials {
    /// A user with a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Password,
    },
    /// A credentials file, of a token and the seed that signs for it.
    File(PathBuf),
    /// A file with the seed of an nkey.
    NkeySeed(PathBuf),
}

/// A password.
#[derive(Clone)]
pub enum Password {
    /// As it stands in the configuration.
    Given(String),
    /// In a file.
    File(PathBuf),
}

impl Credentials {
    /// Says what is wrong with it, as far as that can be told without a server.
    pub fn check(&self) -> Result<(), CredentialsError> {
        self.answer(b"nonce").map(drop)
    }

    /// What a server is told that sent this nonce.
    pub(crate) fn answer(&self, nonce: &[u8]) -> Result<Auth, CredentialsError> {
        let mut auth = Auth::new();
        match self {
            Self::Password { user, password } => {
                auth.username = Some(user.clone());
                auth.password = Some(match password {
                    Password::Given(password) => password.clone(),
                    Password::File(file) => read(file)?.trim().to_owned(),
                });
            }
            Self::NkeySeed(file) => {
                let pair = key_pair(file, read(file)?.trim())?;
                auth.signature = Some(sign(file, &pair, nonce)?);
                auth.nkey = Some(pair.public_key());
            }
            Self::File(file) => {
                let text = read(file)?;
                let part =
                    |kind: &str| part(&text, kind).ok_or_else(|| wrong(file, &format!("it has no {kind}")));
                let pair = key_pair(file, part("USER NKEY SEED")?)?;
                auth.signature = Some(sign(file, &pair, nonce)?);
                auth.jwt = Some(part("NATS USER JWT")?.to_owned());
            }
        }
        Ok(auth)
    }
}

/// What is wrong with a file of them. Says nothing of what is in it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {why}", .file.display())]
pub struct CredentialsError {
    file: PathBuf,
    why: String,
}

impl From<CredentialsError> for AuthError {
    fn from(error: CredentialsError) -> Self {
        Self::new(error)
    }
}

fn wrong(file: &Path, why: &str) -> CredentialsError {
    CredentialsError { file: file.to_owned(), why: why.to_owned() }
}

/// A file of a few lines, read as it is needed: nothing else of the process waits for a connection to NATS.
fn read(file: &Path) -> Result<String, CredentialsError> {
    std::fs::read_to_string(file).map_err(|error| wrong(file, &error.to_string()))
}

fn key_pair(file: &Path, seed: &str) -> Result<nkeys::KeyPair, CredentialsError> {
    nkeys::KeyPair::from_seed(seed).map_err(|_| wrong(file, "it holds no seed of an nkey (SU…)"))
}

fn sign(file: &Path, pair: &nkeys::KeyPair, nonce: &[u8]) -> Result<Vec<u8>, CredentialsError> {
    pair.sign(nonce).map_err(|error| wrong(file, &format!("its seed does not sign: {error}")))
}

/// What stands between the lines `-----BEGIN KIND-----` and `------END KIND------`.
fn part<'a>(text: &'a str, kind: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("BEGIN {kind}"))?;
    let (_, rest) = rest.split_once('\n')?;
    let (inside, _) = rest.split_once(&format!("END {kind}"))?;
    let inside = inside.trim_end_matches('-').trim();
    (!inside.is_empty()).then_some(inside)
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "user {user}"),
            Self::File(file) | Self::NkeySeed(file) => write!(f, "{}", file.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_file_is_read_at_every_answer() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let password = Password::File(file.clone());
        let credentials = Credentials::Password { user: "u".to_owned(), password };
        assert!(credentials.answer(b"").err().unwrap().to_string().contains("password: "));
        for password in ["one", "two"] {
            std::fs::write(&file, format!("{password}\n")).unwrap();
            assert_eq!(credentials.answer(b"").unwrap().password.as_deref(), Some(password));
        }
    }

    #[test]
    fn a_credentials_file_has_a_token_and_a_seed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("user.creds");
        let pair = nkeys::KeyPair::new_user();
        let seed = pair.seed().unwrap();
        let whole = format!(
            "-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        std::fs::write(&file, &whole).unwrap();
        let auth = Credentials::File(file.clone()).answer(b"nonce").unwrap();
        assert_eq!(auth.jwt.as_deref(), Some("a.b.c"));
        assert!(pair.verify(b"nonce", &auth.signature.unwrap()).is_ok());
        for broken in ["", "nothing", &whole.replace("USER NKEY SEED", "x"), &whole.replace(&seed, "SUx")] {
            std::fs::write(&file, broken).unwrap();
            let said = Credentials::File(file.clone()).answer(b"nonce").err().unwrap().to_string();
            assert!(said.contains("user.creds") && !said.contains(&seed), "{said}");
        }
    }
}
