//! One draft's way as one trace, told to a collector by two processes.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message;
use serde_json::json;
use tokio::net::TcpListener;

use crate::harness::client::Answer;
use crate::harness::cluster::Cluster;
use crate::harness::until;

/// A span, and the process that told of it.
#[derive(Debug, Clone)]
struct Told {
    service: String,
    name: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    attributes: Vec<KeyValue>,
    took_nanos: i128,
}

impl Told {
    fn says(&self, key: &str) -> Option<String> {
        let found = self.attributes.iter().find(|attribute| attribute.key == key)?;
        text(found.value.as_ref()?)
    }
}

fn text(value: &AnyValue) -> Option<String> {
    match value.value.as_ref()? {
        Any::StringValue(text) => Some(text.clone()),
        Any::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Told>>>);

impl Collector {
    /// Takes OTLP over HTTP on a free port; gives the address.
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route("/v1/traces", post(take)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        format!("http://{address}/v1/traces")
    }

    fn spans(&self) -> Vec<Told> {
        self.0.lock().unwrap().clone()
    }
}

async fn take(State(collector): State<Collector>, body: Bytes) {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    for of_process in request.resource_spans {
        let attributes = of_process.resource.unwrap().attributes;
        let service = attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
        let service = text(service.value.as_ref().unwrap()).unwrap();
        let spans = of_process.scope_spans.into_iter().flat_map(|scope| scope.spans);
        collector.0.lock().unwrap().extend(spans.map(|span| Told {
            service: service.clone(),
            name: span.name,
            trace: span.trace_id,
            id: span.span_id,
            parent: span.parent_span_id,
            attributes: span.attributes,
            took_nanos: i128::from(span.end_time_unix_nano) - i128::from(span.start_time_unix_nano),
        }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_is_one_trace_from_its_frame_to_its_broadcast() {
    let collector = Collector::default();
    let endpoint = collector.start().await;
    let cluster = Cluster::start()
        .frontends(2)
        .set("traces.endpoint", endpoint)
        .set("traces.sample_ratio", 1)
        .set("traces.send_interval_ms", 50)
        .await;
    let mut ann = cluster.client(0, "ann").await;
    let mut bea = cluster.client(1, "bea").await;
    // Together, so that several traces travel in one message.
    let mut drafts = Vec::new();
    for value in 0..20 {
        drafts.push(ann.submit("set", json!({ "target": "a", "value": value })).await);
    }
    let mut ids = Vec::new();
    for draft in &drafts {
        let Answer::Accepted { event_id, .. } = ann.answer(draft).await else { panic!("{draft}") };
        ids.push(event_id);
    }
    let bad = ann.submit("set", json!({ "target": "a.__proto__", "value": 1 })).await;
    assert!(!ann.answer(&bad).await.is_accepted());
    bea.caught_up(*ids.last().unwrap()).await;

    for (draft, event) in drafts.iter().zip(&ids) {
        // By draft and event id, so that no draft has another one's trace.
        let spans = until(&format!("the whole trace of {draft}"), async || {
            let all = collector.spans();
            let root = all.iter().find(|span| span.says("insieme.draft").as_ref() == Some(draft))?;
            let of_trace: Vec<Told> = all.iter().filter(|span| span.trace == root.trace).cloned().collect();
            // Store, decide and commit once, and a broadcast by each frontend.
            (of_trace.len() >= 6).then_some(of_trace)
        })
        .await;
        let named = |name: &str| -> Vec<&Told> { spans.iter().filter(|span| span.name == name).collect() };
        let one = |name: &str| match named(name)[..] {
            [span] => span,
            _ => panic!("not one {name}: {spans:?}"),
        };
        let (root, store, decide, commit) = (one("draft"), one("store"), one("decide"), one("commit"));
        assert_eq!(root.service, "insieme-frontend");
        assert_eq!(
            (root.parent.len(), &store.parent, store.service.as_str()),
            (0, &root.id, "insieme-frontend")
        );
        assert_eq!((&decide.parent, decide.service.as_str()), (&store.id, "insieme-validator"));
        assert_eq!((&commit.parent, commit.service.as_str()), (&store.id, "insieme-validator"));
        let broadcasts = named("broadcast");
        assert_eq!(broadcasts.len(), 2, "{spans:?}");
        for broadcast in broadcasts {
            assert_eq!((&broadcast.parent, broadcast.service.as_str()), (&commit.id, "insieme-frontend"));
            assert_eq!(broadcast.says("insieme.event"), Some(event.to_string()));
        }
        assert_eq!(root.says("insieme.event"), Some(event.to_string()));
        assert_eq!(root.says("insieme.client").as_deref(), Some("ann"));
        assert_eq!(root.says("insieme.outcome").as_deref(), Some("accepted"));
        assert!(
            root.took_nanos >= store.took_nanos && spans.iter().all(|span| span.took_nanos >= 0),
            "{spans:?}"
        );
    }
    let rejected = until("the rejected draft's trace", async || {
        let all = collector.spans();
        let root = all.iter().find(|span| span.says("insieme.draft").as_ref() == Some(&bad))?.clone();
        let decide = all.iter().find(|span| span.trace == root.trace && span.name == "decide")?.clone();
        Some((root, decide))
    })
    .await;
    assert_eq!(rejected.0.says("insieme.outcome").as_deref(), Some("validation_failed"));
    assert_eq!(rejected.1.says("insieme.outcome").as_deref(), Some("validation_failed"));

    // What is stored is what would be stored without: a repeat is found, and a state is what it was.
    let log = cluster.log("default");
    assert_eq!(log.len(), 20);
    assert!(log.iter().all(|event| !event.to_string().contains("traceparent")), "{log:?}");
    let before = cluster.state_hash("default");
    ann.drop_connection();
    ann.reconnect().await;
    assert_eq!(cluster.state_hash("default"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_harms_nobody() {
    let cluster = Cluster::start()
        .set("traces.endpoint", "http://127.0.0.1:9/v1/traces")
        .set("traces.sample_ratio", 1)
        .set("traces.send_interval_ms", 20)
        .set("traces.queue_spans_max", 16)
        .await;
    let mut ann = cluster.client(0, "ann").await;
    for value in 0..100 {
        let draft = ann.submit("set", json!({ "target": "a", "value": value })).await;
        assert!(ann.answer(&draft).await.is_accepted());
    }
}
