//! What is said: orders, and reports on them. Plain values, in JSON on the wire.
//!
//! A process may be of another version than the administration. It reads who asks first and what is asked
//! then, and says so when it does not understand the latter: nobody waits for it in vain.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::event::{ClientId, PartitionKey};

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Holds clients' connections.
    Frontend,
    /// Decides drafts.
    Validator,
    /// Answers operators.
    Admin,
}

impl Role {
    /// The role's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Frontend => "frontend",
            Self::Validator => "validator",
            Self::Admin => "admin",
        }
    }
}

/// A process, by the name that it goes by among all of its role.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Process {
    /// What it is.
    pub role: Role,
    /// Its name.
    pub id: String,
}

/// Whom an order is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Every process.
    Everyone,
    /// Every frontend.
    Frontends,
}

impl Audience {
    /// Whether a process of this role is meant.
    pub fn includes(self, role: Role) -> bool {
        match self {
            Self::Everyone => true,
            Self::Frontends => role == Role::Frontend,
        }
    }
}

/// An order as it goes over the wire.
#[derive(Debug, Serialize, Deserialize)]
pub struct CommandEnvelope {
    /// Who asks, and is reported to.
    pub asker: String,
    /// His number for it.
    pub number: u64,
    /// What is asked: a [`Command`].
    pub demand: Box<RawValue>,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Command {
    /// To say that it is there.
    Presence,
    /// Which connections it has.
    Connections(ConnectionFilter),
    /// Which clients are connected to it.
    Clients(ClientFilter),
    /// To close connections.
    Close(Closing),
    /// To take what was revoked up to a place, and end the connections that stood on it.
    #[serde(rename_all = "camelCase")]
    Revocations {
        /// The place.
        sequence: u64,
        /// How long it may take to be found, in milliseconds.
        wait_ms: u64,
    },
    /// Which connections it has of the user that the filter names. A demand of its own: a process of an older version
    /// would pass over the user, and tell of everybody.
    UserConnections(ConnectionFilter),
    /// To close a user's connections.
    CloseUser(UserClosing),
    /// Which log filter it has in force, and to put another in force if one is given.
    Log(Option<LogFilter>),
}

/// Which connections are to be closed, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// Those of this client id.
    pub client: ClientId,
    /// Only those of this partition, where one is given.
    pub partition: Option<PartitionKey>,
    /// Whether the client is told to come again, rather than to stay away.
    pub reconnect: bool,
}

/// Which of a user's connections are to be closed, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserClosing {
    /// Those of this user.
    pub user: String,
    /// Only those of this partition, where one is given.
    pub partition: Option<PartitionKey>,
    /// Whether the clients are told to come again, rather than to stay away.
    pub reconnect: bool,
}

/// A log filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFilter {
    /// The filter, as `log.filter` has them.
    pub filter: String,
    /// For how long, in seconds; `None` until it is changed again.
    pub seconds: Option<u64>,
}

/// Which connections are asked for. What is not given does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionFilter {
    /// Those of this partition.
    pub partition: Option<PartitionKey>,
    /// Those of this client id.
    pub client: Option<ClientId>,
    /// Those of this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Those that stand behind this one.
    pub after: Option<ConnectionPlace>,
    /// How many at most.
    pub limit: usize,
}

/// Which clients are asked for. What is not given does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientFilter {
    /// Those with a connection to this partition.
    pub partition: Option<PartitionKey>,
    /// Those that run this version.
    pub version: Option<String>,
    /// Those after this one.
    pub after: Option<ClientId>,
    /// How many at most.
    pub limit: usize,
}

/// Where a connection stands among all, over all frontends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionPlace {
    /// Its client.
    pub client: ClientId,
    /// Its frontend.
    pub frontend: String,
    /// Its number there.
    pub connection: u64,
}

/// What a process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandReply {
    /// Which process.
    pub by: Process,
    /// Its version.
    pub version: String,
    /// When it started, in Unix milliseconds.
    pub started_ms: u64,
    /// How often it says that it is there, in milliseconds.
    pub announce_ms: u64,
    /// The number of the order that it reports on; `None` where nobody asked.
    pub number: Option<u64>,
    /// What it says.
    pub answer: Answer,
}

/// What a process answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// It is there.
    Present,
    /// It goes away.
    Leaving,
    /// It does not know what is asked of it: it is of another version, or such things are not its business.
    NotUnderstood,
    /// It could not do it, and why.
    Failed(String),
    /// The connections that it has.
    Connections(FoundConnections),
    /// The clients that are connected to it.
    Clients(FoundClients),
    /// How many connections it closes.
    Closed(u64),
    /// The log filter that it has in force now.
    Log(String),
}

/// Connections of one frontend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundConnections {
    /// How many there are in all that were asked for, those before the place asked from included.
    pub total: u64,
    /// Of how many clients.
    pub clients: u64,
    /// The first of them, in the order of their places.
    pub found: Vec<FoundConnection>,
    /// Whether there are more behind these.
    pub more: bool,
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FoundConnection {
    /// Its client.
    pub client: ClientId,
    /// Its number at its frontend.
    pub connection: u64,
    /// The user behind the client, where its token names one.
    pub user: Option<String>,
    /// Its partition; the first of them, if its client names them.
    pub partition: Option<PartitionKey>,
    /// All of them, as far as they were asked for. Empty also where its frontend does not say.
    #[serde(default)]
    pub partitions: Vec<PartitionKey>,
    /// The dialect that it speaks.
    pub dialect: String,
    /// Where it comes from: an address, or of IPv6 the /64 network.
    pub address: String,
    /// Since when, in Unix milliseconds.
    pub since_ms: u64,
    /// Its token's own name.
    pub token_id: Option<String>,
    /// When its token ends, in Unix seconds.
    pub expires_at: Option<u64>,
    /// The version that the client says it is.
    #[serde(default)]
    pub version: Option<String>,
    /// What its upgrade request named as its user agent.
    #[serde(default)]
    pub user_agent: Option<String>,
    /// What else the client says of itself: JSON text.
    #[serde(default)]
    pub metadata: Option<String>,
    /// When anything was last heard from it, in Unix milliseconds; 0 where its frontend does not say.
    #[serde(default)]
    pub last_heartbeat_ms: u64,
}

/// Clients of one frontend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundClients {
    /// How many there are in all that were asked for, those before the place asked from included.
    pub total: u64,
    /// How many connections they have.
    pub connections: u64,
    /// What versions those run, with how many connections each; the most frequent ones.
    pub versions: Vec<(String, u64)>,
    /// The first of them, in the order of their ids.
    pub found: Vec<FoundClient>,
    /// Whether there are more after these.
    pub more: bool,
}

/// A client, with what its connections to one frontend have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FoundClient {
    /// Its id.
    pub client: ClientId,
    /// The user, if the token names one.
    pub user: Option<String>,
    /// How many connections it has.
    pub connections: u64,
    /// What versions they run.
    pub versions: Vec<String>,
    /// Since when there is one, in Unix milliseconds.
    pub since_ms: u64,
    /// When anything was last heard from any of them, in Unix milliseconds.
    pub last_heartbeat_ms: u64,
}
