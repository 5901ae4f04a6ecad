//! Traces: one for a draft's whole way, from the frame that brought it to its answer, through all processes.
//!
//! Off unless `traces.endpoint` is set, and then a sample: whether a draft is traced is decided once, where it
//! comes in. A draft that is not costs nothing after that, neither here nor elsewhere, since nothing is passed
//! on for it. What is passed on is W3C's `traceparent`, beside the draft and beside the event, never in them.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
    TracerProvider,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span as SdkSpan,
};
use serde::{Deserialize, Serialize};

use super::lines::VALUE_BYTES_MAX;
use super::text::Cut;

/// Where traces go, and how many.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracesConfig {
    /// The address of an OpenTelemetry collector that takes OTLP over HTTP, in full, such as
    /// `http://collector:4318/v1/traces`. Off unless set.
    pub endpoint: Option<String>,
    /// The part of all drafts that is traced, 0 to 1. Decided by the frontend that a draft comes to.
    pub sample_ratio: f64,
    /// The most spans that wait to be sent; more are dropped.
    pub queue_spans_max: usize,
    /// How long spans are gathered before they are sent, in milliseconds.
    pub send_interval_ms: u64,
    /// How long one sending may take, in milliseconds.
    pub send_timeout_ms: u64,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            sample_ratio: 0.01,
            queue_spans_max: 8192,
            send_interval_ms: 5_000,
            send_timeout_ms: 10_000,
        }
    }
}

impl TracesConfig {
    /// Says what cannot work.
    pub fn check(&self, problems: &mut Vec<String>) {
        if let Some(endpoint) = &self.endpoint
            && !endpoint.starts_with("http://")
            && !endpoint.starts_with("https://")
        {
            problems.push(format!(
                "traces.endpoint: {endpoint:?} is no HTTP address, such as http://collector:4318/v1/traces"
            ));
        }
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            problems.push("traces.sample_ratio: 0 to 1".to_owned());
        }
        if self.queue_spans_max == 0 || self.send_interval_ms == 0 || self.send_timeout_ms == 0 {
            problems.push(
                "traces.queue_spans_max, send_interval_ms and send_timeout_ms: must not be 0".to_owned(),
            );
        }
    }

    /// Starts sending this process's spans, if so configured. Once a process, before anything is traced.
    pub fn start(&self, role: &'static str) -> anyhow::Result<Option<Traces>> {
        let Some(endpoint) = &self.endpoint else { return Ok(None) };
        // The exporter's HTTP client takes the process's; that somebody has chosen one already is as good.
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("the process has a provider of cryptography already");
        }
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .with_timeout(Duration::from_millis(self.send_timeout_ms))
            .build()?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(self.queue_spans_max)
            .with_scheduled_delay(Duration::from_millis(self.send_interval_ms))
            .build();
        let resource = Resource::builder_empty()
            .with_service_name(format!("insieme-{role}"))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            // What is not to be recorded never comes here.
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("insieme-backend");
        if TRACING.set(Tracing { tracer, sample_ratio: self.sample_ratio }).is_err() {
            tracing::debug!("traces were set up already");
        }
        tracing::info!(endpoint, sample_ratio = self.sample_ratio, "traces are sent");
        Ok(Some(Traces(provider)))
    }
}

/// How long the last spans may take at the end of the process.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// This process's traces.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Sends what is left. Blocks.
    pub fn end(self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_SPANS) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

struct Tracing {
    tracer: SdkTracer,
    sample_ratio: f64,
}

static TRACING: OnceLock<Tracing> = OnceLock::new();

/// Begins the trace of something that has just come in, if it is one of the sample.
pub fn begin(name: &'static str) -> Option<Span> {
    let tracing = TRACING.get()?;
    if rand::random::<f64>() >= tracing.sample_ratio {
        return None;
    }
    let builder = tracing.tracer.span_builder(name).with_kind(SpanKind::Server);
    Some(Span(builder.start_with_context(&tracing.tracer, &Context::new())))
}

/// Where a trace has come to: what the next stage or process goes on from.
#[derive(Debug, Clone)]
pub struct TraceParent(SpanContext);

impl TraceParent {
    /// Reads what [`TraceParent::header`] wrote, here or elsewhere. `None` if it is none, is not sampled, or
    /// this process sends no traces.
    pub fn parse(header: &str) -> Option<Self> {
        TRACING.get()?;
        parse(header).map(Self)
    }

    /// The value of a `traceparent` header (W3C Trace Context).
    pub fn header(&self) -> String {
        format!("00-{}-{}-{:02x}", self.0.trace_id(), self.0.span_id(), self.0.trace_flags())
    }

    /// Begins a span below this, which began at `started`.
    pub fn span(&self, name: &'static str, started: SystemTime) -> Option<Span> {
        let tracing = TRACING.get()?;
        let above = Context::new().with_remote_span_context(self.0.clone());
        let builder =
            tracing.tracer.span_builder(name).with_kind(SpanKind::Internal).with_start_time(started);
        Some(Span(builder.start_with_context(&tracing.tracer, &above)))
    }
}

fn parse(header: &str) -> Option<SpanContext> {
    let mut fields = header.split('-');
    let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    // A later version may have more behind these.
    if version.len() != 2 || version == "ff" || (version == "00" && fields.next().is_some()) {
        return None;
    }
    if trace.len() != 32 || span.len() != 16 || flags.len() != 2 {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let context = SpanContext::new(trace, span, flags, true, TraceState::NONE);
    (context.is_valid() && context.is_sampled()).then_some(context)
}

/// A span under way. It ends when it is dropped.
pub struct Span(SdkSpan);

impl Span {
    /// What comes below it goes on from here.
    pub fn parent(&self) -> TraceParent {
        TraceParent(self.0.span_context().clone())
    }

    /// Says something about it. Never a token or a payload.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        let value = match value.into() {
            // Of whatever a client chose, as much as in a log line.
            Value::String(text) if text.as_str().len() > VALUE_BYTES_MAX => {
                Value::from(Cut::of_str(text.as_str(), VALUE_BYTES_MAX))
            }
            value => value,
        };
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// Says that it failed.
    pub fn fail(&mut self, why: &'static str) {
        self.0.set_status(opentelemetry::trace::Status::error(why));
    }
}

#[cfg(test)]
mod tests {
    use super::{TraceParent, parse};

    #[test]
    fn a_traceparent_is_read_as_it_was_written() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(TraceParent(parse(text).unwrap()).header(), text);
    }

    #[test]
    fn what_is_no_traceparent_or_not_sampled_is_none() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319z-b7ad6b7169203331-01",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn nothing_is_traced_where_no_collector_is_set() {
        assert!(super::begin("draft").is_none());
        assert!(TraceParent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").is_none());
    }
}
