//! Log lines, for people or as JSON. Every line of the process is made here, so that what holds for one holds
//! for all: whatever a client chose is cut and escaped (`text`), and a kind of line is written only so often in a
//! second (`flood`).

use serde::Deserialize;
use serde::Serialize;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, Thread};
use std::time::{Duration, Instant};

use metrics::counter;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::flood::{Flood, Verdict};
use super::process::LINES_LEFT_OUT;
use super::text::{self, Cut};

/// The most bytes of a value; as many as tell one name from another.
pub(crate) const VALUE_BYTES_MAX: usize = 128;
/// The most bytes of what we say ourselves: a message, and what an error tells.
const SAID_BYTES_MAX: usize = 1_024;
/// The fields that have so many.
const SAID: [&str; 4] = ["message", "error", "why", "what"];
/// How long after lines were left out that is told, if no other line of their kind tells it.
const TELL_AFTER: Duration = Duration::from_millis(1_100);

/// Writes log lines.
pub(crate) struct Lines(Arc<Inner>);

struct Inner {
    format: LogFormat,
    has_colours: bool,
    flood: Flood,
    /// Where lines go.
    out: Box<dyn Fn(&str) + Send + Sync>,
    /// Tells what was left out, where no other line does; started when it is needed first.
    teller: OnceLock<Option<Thread>>,
}

impl Lines {
    /// Lines to standard error.
    pub(crate) fn to_stderr(format: LogFormat, has_colours: bool) -> Self {
        // There is nobody to tell that nobody listens.
        Self::to(format, has_colours, |line| drop(std::io::stderr().lock().write_all(line.as_bytes())))
    }

    pub(crate) fn to(
        format: LogFormat,
        has_colours: bool,
        out: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        let (flood, teller) = (Flood::default(), OnceLock::new());
        Self(Arc::new(Inner { format, has_colours, flood, out: Box::new(out), teller }))
    }
}

impl Inner {
    /// Has it told what was left out, some time later.
    fn tell_later(self: &Arc<Self>) {
        let teller = self.teller.get_or_init(|| {
            let lines = Arc::downgrade(self);
            let telling = move || {
                // Ends with those whose lines they are, at the latest when it is woken next.
                while let Some(owes) = lines.upgrade().map(|lines| lines.flood.owes()) {
                    match owes {
                        true => std::thread::sleep(TELL_AFTER),
                        false => std::thread::park(),
                    }
                    if let Some(lines) = lines.upgrade() {
                        lines.tell(Instant::now());
                    }
                }
            };
            // Without it the next line of the kind tells.
            Builder::new()
                .name("log-lines".to_owned())
                .spawn(telling)
                .ok()
                .map(|running| running.thread().clone())
        });
        if let Some(teller) = teller {
            teller.unpark();
        }
    }

    fn tell(&self, now: Instant) {
        for (of, left_out) in self.flood.untold(now) {
            let mut fields = Fields::default();
            fields.put("message", Value::Text("more lines like one before were left out".to_owned()));
            fields.put("of", Value::Text(of.name().to_owned()));
            fields.put("left_out", Value::Bare(left_out.to_string()));
            (self.out)(&self.line(of, &fields, &[]));
        }
    }

    fn line(&self, metadata: &Metadata<'_>, fields: &Fields, spans: &[(&'static str, Fields)]) -> String {
        let mut line = String::with_capacity(256);
        match self.format {
            LogFormat::Human => human(&mut line, self.has_colours, metadata, fields, spans),
            LogFormat::Json => json(&mut line, metadata, fields, spans),
        }
        line.push('\n');
        line
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let metadata = event.metadata();
        let left_out = match self.0.flood.judge(metadata, Instant::now()) {
            Verdict::Write(left_out) => left_out,
            Verdict::LeaveOut { is_first } => {
                counter!(LINES_LEFT_OUT).increment(1);
                if is_first {
                    self.0.tell_later();
                }
                return;
            }
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        if left_out > 0 {
            fields.put("left_out", Value::Bare(left_out.to_string()));
        }
        let mut spans = Vec::new();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            let fields = span.extensions().get::<Fields>().cloned().unwrap_or_default();
            spans.push((span.name(), fields));
        }
        (self.0.out)(&self.0.line(metadata, &fields, &spans));
    }
}

/// The fields of a line or a span. A later value takes the place of an earlier one.
#[derive(Debug, Default, Clone)]
struct Fields(Vec<(&'static str, Value)>);

#[derive(Debug, Clone)]
enum Value {
    /// What is written as it is: numbers, true and false.
    Bare(String),
    /// What a value says of itself, already cut.
    Text(String),
    /// A text, already cut.
    Quoted(String),
}

impl Fields {
    fn put(&mut self, name: &'static str, value: Value) {
        // What the `log` crate's lines carry for those who want to know where they come from.
        if name.starts_with("log.") {
            return;
        }
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, place)) => *place = value,
            None => self.0.push((name, value)),
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

fn bytes_max(name: &str) -> usize {
    if SAID.contains(&name) { SAID_BYTES_MAX } else { VALUE_BYTES_MAX }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), Value::Text(Cut::of(value, bytes_max(field.name()))));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), Value::Quoted(Cut::of_str(value, bytes_max(field.name()))));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let value =
            if value.is_finite() { Value::Bare(value.to_string()) } else { Value::Text(value.to_string()) };
        self.put(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), Value::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), Value::Bare(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), Value::Bare(value.to_string()));
    }
}

fn timestamp(line: &mut String) {
    // Writing to a string does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(line));
}

fn human(
    line: &mut String,
    has_colours: bool,
    metadata: &Metadata<'_>,
    fields: &Fields,
    spans: &[(&'static str, Fields)],
) {
    timestamp(line);
    let colour = match *metadata.level() {
        _ if !has_colours => None,
        Level::ERROR => Some(31),
        Level::WARN => Some(33),
        Level::INFO => Some(32),
        Level::DEBUG => Some(34),
        Level::TRACE => Some(35),
    };
    // Writing to a string does not fail.
    let _ = match colour {
        Some(colour) => write!(line, " \u{1b}[{colour}m{:>5}\u{1b}[0m ", metadata.level()),
        None => write!(line, " {:>5} ", metadata.level()),
    };
    for (index, (name, fields)) in spans.iter().enumerate() {
        line.push_str(name);
        if !fields.0.is_empty() {
            line.push('{');
            pairs(line, fields);
            line.push('}');
        }
        line.push_str(if index + 1 == spans.len() { ": " } else { ":" });
    }
    if let Some(Value::Text(message) | Value::Quoted(message) | Value::Bare(message)) = fields.get("message")
    {
        text::escape(message, line);
        if fields.0.len() > 1 {
            line.push(' ');
        }
    }
    pairs(line, fields);
}

/// The fields but for the message, as `name=value`; in quotes what is text, and what is more than a word.
fn pairs(line: &mut String, fields: &Fields) {
    let mut is_first = true;
    for (name, value) in fields.0.iter().filter(|(name, _)| *name != "message") {
        if !std::mem::take(&mut is_first) {
            line.push(' ');
        }
        line.push_str(name);
        line.push('=');
        match value {
            Value::Bare(value) => line.push_str(value),
            Value::Text(text) if is_word(text) => line.push_str(text),
            Value::Text(text) | Value::Quoted(text) => text::quote(text, line),
        }
    }
}

fn is_word(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/@+~[]".contains(&byte);
    !text.is_empty() && text.bytes().all(plain)
}

fn json(line: &mut String, metadata: &Metadata<'_>, fields: &Fields, spans: &[(&'static str, Fields)]) {
    line.push_str("{\"timestamp\":\"");
    timestamp(line);
    line.push_str("\",\"level\":\"");
    line.push_str(level_name(*metadata.level()));
    line.push('"');
    members(line, fields);
    line.push_str(",\"target\":");
    text::json(metadata.target(), line);
    if !spans.is_empty() {
        line.push_str(",\"spans\":[");
        for (index, (name, fields)) in spans.iter().enumerate() {
            line.push_str(if index == 0 { "{\"name\":" } else { ",{\"name\":" });
            text::json(name, line);
            members(line, fields);
            line.push('}');
        }
        line.push(']');
    }
    line.push('}');
}

/// The level as the design document spells it.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn members(line: &mut String, fields: &Fields) {
    for (name, value) in &fields.0 {
        line.push_str(",\"");
        line.push_str(name);
        line.push_str("\":");
        match value {
            Value::Bare(value) => line.push_str(value),
            Value::Text(text) | Value::Quoted(text) => text::json(text, line),
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing::{debug, error_span, info, warn};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::telemetry::flood::LINES_PER_SECOND_MAX;

    /// What is written while something runs.
    fn written(format: LogFormat, run: impl FnOnce()) -> Vec<String> {
        let all = Arc::new(Mutex::new(Vec::new()));
        let lines = Lines::to(format, false, {
            let all = all.clone();
            move |line| all.lock().unwrap().push(line.to_owned())
        });
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), run);
        let all = all.lock().unwrap();
        all.clone()
    }

    const NASTY: &str = "a\nINFO forged client=\"admin\" \u{1b}[2J\u{202e}";

    fn some_lines() {
        let span = error_span!("connection", connection = 7, client = tracing::field::Empty);
        let _in_span = span.enter();
        for _ in 0..1_000 {
            span.record("client", NASTY);
        }
        let long = "x".repeat(1 << 20);
        info!(partition = %NASTY, long, number = 5, is = true, "said {}", long);
        warn!(partition = "plain", error = %std::io::Error::other(NASTY), "bad");
    }

    #[test]
    fn a_line_for_people_is_one_line_of_bounded_length() {
        let lines = written(LogFormat::Human, some_lines);
        assert_eq!(lines.len(), 2);
        let escaped = "\"a\\nINFO forged client=\\\"admin\\\" \\u{1b}[2J\\u{202e}\"";
        for line in &lines {
            assert!(line.len() < 3_000 && line.ends_with('\n'), "{line}");
            assert!(!line.trim_end_matches('\n').chars().any(text::is_active), "{line}");
            assert!(line.contains(&format!("connection{{connection=7 client={escaped}}}: ")), "{line}");
        }
        let cut = format!(" partition={escaped} long=\"{}…\" number=5 is=true", "x".repeat(VALUE_BYTES_MAX));
        assert!(lines[0].contains(&cut), "{}", lines[0]);
        assert!(lines[1].contains(&format!(": bad partition=\"plain\" error={escaped}")), "{}", lines[1]);
        assert!(lines[1].contains("  WARN connection{"), "{}", lines[1]);
    }

    #[test]
    fn a_line_of_json_says_the_same() {
        let lines = written(LogFormat::Json, some_lines);
        for line in &lines {
            assert!(
                line.len() < 3_000 && !line.trim_end_matches('\n').chars().any(text::is_active),
                "{line}"
            );
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(
                (&line["spans"][0]["client"], &line["spans"][0]["connection"]),
                (&NASTY.into(), &7.into())
            );
            assert_eq!(
                (&line["spans"][0]["name"], line["target"].as_str()),
                (&"connection".into(), Some(module_path!()))
            );
        }
        let levels = lines
            .iter()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["level"].clone());
        assert_eq!(levels.collect::<Vec<_>>(), ["info", "warn"]);
        let first: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(
            (&first["partition"], &first["number"], &first["is"]),
            (&NASTY.into(), &5.into(), &true.into())
        );
        assert_eq!(first["long"].as_str().unwrap().chars().count(), VALUE_BYTES_MAX + 1);
    }

    #[test]
    fn lines_without_end_are_left_out_and_counted() {
        let lines = written(LogFormat::Human, || {
            for n in 0..5 * LINES_PER_SECOND_MAX {
                warn!(n, "again");
                debug!("and this");
            }
            info!("something else");
            // Told by itself, since no other line of the kind does.
            std::thread::sleep(2 * TELL_AFTER);
        });
        let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
        let again = count(": again") + count(" again n=");
        assert!((LINES_PER_SECOND_MAX as usize..400).contains(&again), "{again}");
        assert_eq!((count("and this"), count("something else")), (500, 1));
        let told = lines.iter().filter_map(|line| line.split("left_out=").nth(1));
        let told: usize = told.map(|count| count.trim().parse::<usize>().unwrap()).sum();
        assert_eq!(told + again, 500, "{lines:?}");
    }
}
