//! What operators ask and do from a shell, through the administration.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use super::ask::{Administration, Path};
use super::table::{Column, Show, escape_control, shown, table};
use crate::cli::common::say;
use crate::cli::log::FilterArgs;
use crate::cli::token::parse_time;
use crate::config::settings::Config;

/// How many entries of a list are shown unless the command line says.
const ENTRIES_DEFAULT: usize = 1_000;

#[derive(Debug, Subcommand)]
pub(crate) enum Ask {
    /// Which processes are there, and whether each answers.
    Processes,
    /// The partitions, with their slots and last events.
    Partitions(List),
    /// The slots, their owners, and how many drafts wait in each.
    Slots,
    /// A partition's state, as JSON.
    State {
        partition: String,
        /// The state as it was right after this event.
        #[arg(long, value_name = "EVENT_ID")]
        at: Option<u64>,
    },
    /// A partition's committed events, one JSON object a line.
    Events {
        partition: String,
        /// The first event.
        #[arg(long, value_name = "EVENT_ID")]
        from: Option<u64>,
        /// The last event.
        #[arg(long, value_name = "EVENT_ID")]
        to: Option<u64>,
        /// Go on with those to come, as server-sent events.
        #[arg(long)]
        follow: bool,
        #[command(flatten)]
        filter: FilterArgs,
    },
    /// Write a snapshot of a partition's state now.
    Snapshot { partition: String },
    /// Who is connected, over all frontends.
    Connections {
        /// Only those to this partition.
        partition: Option<String>,
        #[command(flatten)]
        list: List,
    },
    /// The clients that are connected, with how many connections each has and what it runs.
    Clients {
        /// Only those that are connected to this partition.
        #[arg(long, value_name = "PARTITION")]
        partition: Option<String>,
        /// Only those that run this version.
        #[arg(long, value_name = "VERSION")]
        version: Option<String>,
        #[command(flatten)]
        list: List,
    },
    /// The connections of a client id, in whatever partition.
    Client {
        client: String,
        #[command(flatten)]
        list: List,
    },
    /// End a client's connections on all frontends. It stays away as far as it does as it is told; its token stays
    /// good (see revoke-token).
    Close {
        client: String,
        /// Only those of this partition.
        #[arg(long, value_name = "PARTITION")]
        partition: Option<String>,
        /// Have the client come again.
        #[arg(long)]
        reconnect: bool,
    },
    /// The connections of a user, by whatever client and in whatever partition.
    User {
        user: String,
        #[command(flatten)]
        list: List,
    },
    /// The same as close, for all clients of a user.
    CloseUser {
        user: String,
        /// Only those of this partition.
        #[arg(long, value_name = "PARTITION")]
        partition: Option<String>,
        /// Have the clients come again.
        #[arg(long)]
        reconnect: bool,
    },
    /// Refuse a token from now on, by its id (the claim jti), and end the connections that came in with it.
    RevokeToken {
        #[arg(value_name = "JTI")]
        token: String,
        /// For how long, such as 30d. [default: as long as it can live, if auth.lifetime_s_max says; else for ever]
        #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
        time: Option<Duration>,
    },
    /// Refuse a client's tokens that have been issued up to now, and end the connections that came in with them.
    RevokeClient {
        client: String,
        /// Those issued (iat) up to then, in Unix seconds, rather than up to now.
        #[arg(long, value_name = "UNIX_SECONDS")]
        issued_upto: Option<u64>,
        /// For how long, such as 30d. [default: as long as they can live, if auth.lifetime_s_max says; else for ever]
        #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
        time: Option<Duration>,
    },
    /// The same as revoke-client, for all clients of a user.
    RevokeUser {
        user: String,
        /// Those issued (iat) up to then, in Unix seconds, rather than up to now.
        #[arg(long, value_name = "UNIX_SECONDS")]
        issued_upto: Option<u64>,
        /// For how long, such as 30d. [default: as long as they can live, if auth.lifetime_s_max says; else for ever]
        #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
        time: Option<Duration>,
    },
    /// Take back the revocation of a token.
    LiftToken {
        #[arg(value_name = "JTI")]
        token: String,
    },
    /// Take back the revocation of a client's tokens.
    LiftClient { client: String },
    /// Take back the revocation of a user's tokens.
    LiftUser { user: String },
    /// What is revoked.
    Revocations(List),
    /// What all processes log; with a level, have all of them log that.
    Log {
        /// A level, or levels by module, such as info,insieme_backend::validator=debug.
        level: Option<String>,
        /// Go back to what it was after so many minutes.
        #[arg(long, value_name = "NUMBER", requires = "level")]
        minutes: Option<u64>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// The most entries.
    #[arg(long, value_name = "NUMBER", default_value_t = ENTRIES_DEFAULT)]
    limit: usize,
}

const CONNECTIONS: [Column; 11] = [
    ("CLIENT", "client", Show::Plain),
    ("USER", "user", Show::Plain),
    ("FRONTEND", "frontend", Show::Plain),
    ("CONNECTION", "connection", Show::Plain),
    ("PARTITION", "partition", Show::Plain),
    ("DIALECT", "dialect", Show::Plain),
    ("ADDRESS", "address", Show::Plain),
    ("VERSION", "version", Show::Plain),
    ("SINCE", "since", Show::Ms),
    ("HEARD", "lastHeartbeat", Show::Ms),
    ("TOKEN", "tokenId", Show::Plain),
];
const CLIENTS: [Column; 6] = [
    ("CLIENT", "client", Show::Plain),
    ("USER", "user", Show::Plain),
    ("CONNECTIONS", "connections", Show::Plain),
    ("VERSIONS", "versions", Show::Plain),
    ("SINCE", "since", Show::Ms),
    ("HEARD", "lastHeartbeat", Show::Ms),
];
const PARTITIONS: [Column; 5] = [
    ("PARTITION", "partition", Show::Plain),
    ("SLOT", "slot", Show::Plain),
    ("EVENTS", "events", Show::Plain),
    ("HEAD", "head", Show::Plain),
    ("LAST", "lastTimestamp", Show::Ms),
];
const SLOTS: [Column; 4] = [
    ("SLOT", "slot", Show::Plain),
    ("OWNER", "owner", Show::Plain),
    ("REVISION", "revision", Show::Plain),
    ("PENDING", "pendingDrafts", Show::Plain),
];
const PROCESSES: [Column; 5] = [
    ("ROLE", "role", Show::Plain),
    ("ID", "id", Show::Plain),
    ("VERSION", "version", Show::Plain),
    ("STARTED", "startedAt", Show::Ms),
    ("ANSWERS", "answers", Show::Plain),
];
const REVOCATIONS: [Column; 8] = [
    ("KIND", "kind", Show::Plain),
    ("TOKEN", "tokenId", Show::Plain),
    ("CLIENT", "client", Show::Plain),
    ("USER", "user", Show::Plain),
    ("ISSUED UP TO", "issuedUpto", Show::Seconds),
    ("UNTIL", "until", Show::Seconds),
    ("AT", "at", Show::Seconds),
    ("BY", "by", Show::Plain),
];
const LOGS: [Column; 3] =
    [("ROLE", "role", Show::Plain), ("ID", "id", Show::Plain), ("LEVEL", "level", Show::Plain)];
const CLOSED: [Column; 2] = [("FRONTEND", "id", Show::Plain), ("CLOSED", "closed", Show::Plain)];

impl Ask {
    /// Asks, and prints the answer: for people, or with `as_json` as it came.
    pub(crate) async fn run(self, config: &Config, as_json: bool) -> anyhow::Result<()> {
        let admin = Administration::of(config)?;
        let (path, key, columns, limit) = match self {
            Self::State { partition, at } => {
                let path = Path::of(&["partitions", &partition, "state"]).with("at", at);
                let answer = admin.get(&path).await?;
                return say(&if as_json { &answer } else { &answer["state"] }.to_string());
            }
            Self::Events { partition, from, to, follow, filter } => {
                let path = Path::of(&["partitions", &partition, "events"])
                    .with("from", from)
                    .with("to", to)
                    .with("client", filter.client)
                    .with("type", filter.event_type)
                    .with("since", filter.since)
                    .with("until", filter.until);
                let accept = if follow { "text/event-stream" } else { "application/jsonl" };
                return admin.copy(&path, accept).await;
            }
            Self::Snapshot { partition } => {
                let path = Path::of(&["partitions", &partition, "snapshot"]);
                let answer = admin.ask(Method::POST, &path, None).await?;
                if as_json {
                    return say(&answer.to_string());
                }
                return say(&format!(
                    "snapshot written: event {}, {} bytes",
                    answer["eventId"], answer["bytes"]
                ));
            }
            Self::Close { client, partition, reconnect } => {
                return close(&admin, &["clients", &client, "close"], partition, reconnect, as_json).await;
            }
            Self::CloseUser { user, partition, reconnect } => {
                return close(&admin, &["users", &user, "close"], partition, reconnect, as_json).await;
            }
            Self::RevokeToken { token, time } => {
                let body = json!({ "until": until(time)? });
                let path = Path::of(&["tokens", &token, "revoke"]);
                return closed(&admin.ask(Method::POST, &path, Some(&body)).await?, "revoked", as_json);
            }
            Self::RevokeClient { client, issued_upto, time } => {
                return revoke(&admin, &["clients", &client, "revoke"], issued_upto, time, as_json).await;
            }
            Self::RevokeUser { user, issued_upto, time } => {
                return revoke(&admin, &["users", &user, "revoke"], issued_upto, time, as_json).await;
            }
            Self::LiftToken { token } => return lift(&admin, &["tokens", &token, "revoke"], as_json).await,
            Self::LiftClient { client } => {
                return lift(&admin, &["clients", &client, "revoke"], as_json).await;
            }
            Self::LiftUser { user } => return lift(&admin, &["users", &user, "revoke"], as_json).await,
            Self::Log { level: Some(level), minutes } => {
                let mut body = json!({ "level": level });
                if let Some(minutes) = minutes {
                    body["minutes"] = minutes.into();
                }
                let answer = admin.ask(Method::PUT, &Path::of(&["log"]), Some(&body)).await?;
                print(&answer, "processes", &LOGS, as_json)?;
                return complete(&answer);
            }
            Self::Log { level: None, .. } => (Path::of(&["log"]), "processes", &LOGS[..], None),
            Self::Processes => (Path::of(&["processes"]), "processes", &PROCESSES[..], None),
            Self::Slots => (Path::of(&["slots"]), "slots", &SLOTS[..], None),
            Self::Partitions(List { limit }) => {
                (Path::of(&["partitions"]), "partitions", &PARTITIONS[..], Some(limit))
            }
            Self::Revocations(List { limit }) => {
                (Path::of(&["revocations"]), "revocations", &REVOCATIONS[..], Some(limit))
            }
            Self::Connections { partition, list } => {
                let path = match partition {
                    Some(partition) => Path::of(&["partitions", &partition, "connections"]),
                    None => Path::of(&["connections"]),
                };
                (path, "connections", &CONNECTIONS[..], Some(list.limit))
            }
            Self::Clients { partition, version, list } => {
                let path = Path::of(&["clients"]).with("partition", partition).with("version", version);
                (path, "clients", &CLIENTS[..], Some(list.limit))
            }
            Self::Client { client, list } => {
                (Path::of(&["clients", &client]), "connections", &CONNECTIONS[..], Some(list.limit))
            }
            Self::User { user, list } => {
                (Path::of(&["users", &user]), "connections", &CONNECTIONS[..], Some(list.limit))
            }
        };
        let answer = pages(&admin, &path, key, limit).await?;
        print(&answer, key, columns, as_json)?;
        complete(&answer)
    }
}

async fn close(
    admin: &Administration,
    path: &[&str],
    partition: Option<String>,
    reconnect: bool,
    as_json: bool,
) -> anyhow::Result<()> {
    let body = json!({ "partition": partition, "reconnect": reconnect });
    closed(&admin.ask(Method::POST, &Path::of(path), Some(&body)).await?, "connections", as_json)
}

async fn revoke(
    admin: &Administration,
    path: &[&str],
    issued_upto: Option<u64>,
    time: Option<Duration>,
    as_json: bool,
) -> anyhow::Result<()> {
    let body = json!({ "issuedUpto": issued_upto, "until": until(time)? });
    closed(&admin.ask(Method::POST, &Path::of(path), Some(&body)).await?, "revoked", as_json)
}

async fn lift(admin: &Administration, path: &[&str], as_json: bool) -> anyhow::Result<()> {
    closed(&admin.ask(Method::DELETE, &Path::of(path), None).await?, "lifted", as_json)
}

/// Asks page after page, and puts their entries into the first; as far as there are pages.
async fn pages(
    admin: &Administration,
    path: &Path,
    key: &str,
    limit: Option<usize>,
) -> anyhow::Result<Value> {
    let mut whole = admin.get(path).await?;
    let Some(limit) = limit else { return Ok(whole) };
    loop {
        let entries = whole[key].as_array().map_or(0, Vec::len);
        let after = match &whole["next"] {
            Value::Null => return Ok(whole),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if entries >= limit {
            whole[key].as_array_mut().context("the answer is not as expected")?.truncate(limit);
            return Ok(whole);
        }
        let mut page = admin.get(&path.clone().with("after", Some(after))).await?;
        let more = page[key].as_array_mut().map(std::mem::take).context("the answer is not as expected")?;
        whole[key].as_array_mut().context("the answer is not as expected")?.extend(more);
        // What is wrong with one page is wrong with all of them.
        whole["next"] = page["next"].take();
        if page["complete"] == false && whole["complete"] == true {
            for field in ["complete", "missing", "failed"] {
                whole[field] = page[field].take();
            }
        }
    }
}

fn print(answer: &Value, key: &str, columns: &[Column], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return say(&answer.to_string());
    }
    let rows = answer[key].as_array().map_or(&[][..], Vec::as_slice);
    say(&table(columns, rows))?;
    let mut notes = Vec::new();
    if let Some(total) = answer["total"].as_u64().filter(|total| *total > rows.len() as u64) {
        notes.push(format!("{} of {total}", rows.len()));
    } else if !answer["next"].is_null() {
        notes.push("there are more (--limit)".to_owned());
    }
    if let Some(unowned) = answer["unowned"].as_u64().filter(|unowned| *unowned > 0) {
        notes.push(format!("{unowned} slots have no owner"));
    }
    for note in notes {
        say(&format!("({note})"))?;
    }
    Ok(())
}

/// Prints what came of an order that ends connections.
fn closed(answer: &Value, what: &str, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        say(&answer.to_string())?;
    } else {
        say(&format!("{what}: {} connections closed", shown(&answer["closed"], Show::Plain)))?;
        if let Some(until) = answer.get("until") {
            let until = if until.is_null() { "it is lifted".to_owned() } else { shown(until, Show::Seconds) };
            say(&format!("until {until}"))?;
        }
        print(answer, "frontends", &CLOSED, false)?;
    }
    complete(answer)
}

/// Fails unless everybody who is there has answered: whoever reads only the exit code is to know.
fn complete(answer: &Value) -> anyhow::Result<()> {
    if answer["complete"] != false {
        return Ok(());
    }
    let named = |entry: &Value| {
        let (role, id) = (shown(&entry["role"], Show::Plain), shown(&entry["id"], Show::Plain));
        match entry["why"].as_str() {
            Some(why) => format!("{role} {id} ({})", escape_control(why)),
            None => format!("{role} {id}"),
        }
    };
    let names = |key: &str| {
        let entries = answer[key].as_array().map_or(&[][..], Vec::as_slice);
        entries.iter().map(named).collect::<Vec<_>>().join(", ")
    };
    match (names("missing"), names("failed")) {
        (missing, failed) if failed.is_empty() => bail!("no answer in time from: {missing}"),
        (missing, failed) if missing.is_empty() => bail!("not done by: {failed}"),
        (missing, failed) => bail!("no answer in time from: {missing}; not done by: {failed}"),
    }
}

/// When a time from now ends, in Unix seconds.
fn until(time: Option<Duration>) -> anyhow::Result<Option<u64>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
    Ok(time.map(|time| (now + time).as_secs()))
}
