//! What is served, and that it is documented.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::logs::LogControl;
use super::metrics::{Metrics, serve};

/// `docs/operations/observe.md` lists exactly the metrics that the areas declare.
#[test]
fn every_metric_is_in_the_operations_manual_and_no_other() {
    let declared = names(include_str!("../frontend/metrics.rs"), '"')
        .chain(names(include_str!("../validator/metrics.rs"), '"'))
        .chain(names(include_str!("../auth/metrics.rs"), '"'))
        .chain(names(include_str!("../log/metrics.rs"), '"'))
        .chain(names(include_str!("process.rs"), '"'))
        .collect::<std::collections::BTreeSet<_>>();
    let manual = include_str!("../../docs/operations/observe.md");
    let documented = names(manual, '`').collect::<std::collections::BTreeSet<_>>();
    assert!(declared.len() > 20);
    assert_eq!(declared, documented);
}

/// The metric names between two `quote`s.
fn names(text: &str, quote: char) -> impl Iterator<Item = &str> {
    text.split(quote).filter(|part| {
        (part.starts_with("insieme_") || part.starts_with("process_"))
            && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    })
}

#[tokio::test]
async fn metrics_and_readiness_are_served_until_shutdown() {
    let metrics = Metrics::of(PrometheusBuilder::new().build_recorder().handle());
    let (is_ready, shutdown) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
    let seen = is_ready.clone();
    let readiness = move || if seen.load(Ordering::Relaxed) { Ok(()) } else { Err("no NATS".to_owned()) };
    let (address, serving) =
        serve(([127, 0, 0, 1], 0).into(), metrics, Arc::new(readiness), shutdown.clone()).await.unwrap();
    let asking = async {
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("not ready: no NATS\n"), "{answer}");
        is_ready.store(true, Ordering::Relaxed);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.starts_with("HTTP/1.1 200"));
        shutdown.cancel();
    };
    let (served, ()) = tokio::join!(serving, asking);
    served.unwrap();
}

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[test]
fn a_filter_for_a_while_gives_way_to_the_one_before_it() {
    use std::time::Duration;
    let (_layer, control) = LogControl::apart("info");
    assert_eq!(control.restore_if_due().unwrap(), None);
    control.set_filter_for("debug", Duration::from_secs(600)).unwrap();
    assert_eq!((control.restore_if_due().unwrap(), control.filter()), (None, "debug".to_owned()));
    // Not the one before it, which was for a while too; and a wrong one changes nothing.
    control.set_filter_for("trace", Duration::ZERO).unwrap();
    assert!(control.set_filter_for("x=y=z", Duration::from_secs(600)).is_err());
    assert_eq!(control.filter(), "trace");
    assert_eq!(control.restore_if_due().unwrap(), Some("info".to_owned()));
    assert_eq!((control.restore_if_due().unwrap(), control.filter()), (None, "info".to_owned()));
    // One that was set for good stays.
    control.set_filter_for("debug", Duration::ZERO).unwrap();
    control.set_filter("warn").unwrap();
    assert_eq!((control.restore_if_due().unwrap(), control.filter()), (None, "warn".to_owned()));
}
