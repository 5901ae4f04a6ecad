//! What the tests of this module share.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::value::RawValue;
use tokio::io::DuplexStream;
use tokio_util::sync::CancellationToken;

use super::feed::event::Entry;
use super::net::{AddressKey, Stream};
use super::session;
use super::session::state::CameWith;
use super::settings::FrontendSettings;
use super::shared::FrontendShared;
use super::websocket::WebSocket;
use crate::app::Folds;
use crate::auth::Authenticator;
use crate::event::{ClientId, ContentHash, Draft, EventId, EventRecord, PartitionKey};
use crate::log::{Log, StoredEvent};

/// An event of client `c`, whose draft id is `d<ordinal>`.
pub(crate) fn entry(id: u64, ordinal: u64) -> Arc<Entry> {
    let payload = RawValue::from_string(format!("{{\"n\":{ordinal}}}")).unwrap();
    let record = EventRecord {
        event_type: Cow::Borrowed("set"),
        payload: &payload,
        partition: PartitionKey::new("p").unwrap(),
        timestamp: 1,
        client_id: ClientId::new("c").unwrap(),
        user_id: None,
        draft_id: Cow::Owned(format!("d{ordinal}")),
        content_hash: ContentHash(0),
        ordinal,
        v1: None,
        rules: None,
        is_mark: false,
    };
    let body = record.to_json().unwrap().into();
    Arc::new(Entry::parse(StoredEvent { id: EventId(id), body }).unwrap())
}

/// The draft that became [`entry`].
pub(crate) fn draft(n: u64) -> Draft {
    Draft {
        draft_id: format!("d{n}"),
        event_type: "set".to_owned(),
        payload: RawValue::from_string(format!("{{\"n\":{n}}}")).unwrap(),
        base_event_id: None,
        v1: None,
    }
}

/// A frontend without its listener: its sessions, feeds and pages are as they are.
pub(crate) struct Bare {
    shared: Arc<FrontendShared>,
    stop: CancellationToken,
}

/// How much a client may leave unread.
const PIPE_BYTES: usize = 1 << 20;

impl Bare {
    /// Starts one on a log. Its connections have the numbers from there on.
    pub(crate) async fn start(settings: FrontendSettings, log: Log, numbers_from: u64) -> Self {
        let (stop, going) = (CancellationToken::new(), (CancellationToken::new(), CancellationToken::new()));
        let folds = Arc::new(Folds::new(log.clone()).unwrap());
        let shared = FrontendShared::new(Arc::new(settings), log, folds, Authenticator::Anyone, going);
        shared.numbers.store(numbers_from, Ordering::Relaxed);
        let answers = shared.answers.subscribe(&shared.log, &shared.settings.id).await.unwrap();
        let (answering, until) = (shared.answers.clone(), stop.clone());
        tokio::spawn(async move { answering.run(answers, until).await });
        Self { shared, stop }
    }

    /// A connection, past its upgrade: the client's end, its number, and what serves it.
    pub(crate) fn connect(&self) -> (DuplexStream, u64, impl Future<Output = ()> + Send + 'static) {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let (shared, number) = (self.shared.clone(), self.shared.number());
        let entrance = shared.limits.enter(AddressKey::of([127, 0, 0, 1].into()));
        let entrance = entrance.unwrap_or_else(|_| panic!("there is room"));
        let socket = WebSocket::new(Stream::Pipe(far), Vec::new(), shared.settings.frame_bytes_max);
        let came_with = CameWith { token: None, user_agent: None };
        (near, number, session::serve(shared, number, socket, entrance, came_with))
    }

    /// It is gone, with all but the connections, which are others' tasks.
    pub(crate) fn kill(&self) {
        self.stop.cancel();
        self.shared.feeds.cancel();
    }
}
