//! QuickJS, and a module in it. Everything of it runs in a worker process; nothing else names a type of QuickJS.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use rquickjs::context::{EvalOptions, intrinsic};
use rquickjs::loader::{ImportAttributes, Loader, Resolver};
use rquickjs::module::Declared;
use rquickjs::{
    CatchResultExt, CaughtError, Context, Ctx, Function, Module, Object, Persistent, Runtime, Value,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::bounds::{LOAD_TICKS_MAX, MEMORY_BYTES_MAX, STACK_BYTES_MAX, TAKE_BACK_BYTES, TICKS_MAX};
use super::event::AppEvent;
use super::meter::Meter;
use super::sources::{OWN, Sources, resolve};
use super::verdict::{Fault, FaultKind, Verdict};
use crate::event::FieldError;
use crate::json::Json;
use crate::rules::{FINDINGS_MAX, Schema, finding};
use crate::state::Node;

const MEMBRANE: &str = include_str!("js/membrane.js");
const DRIVER: &str = include_str!("js/driver.js");
const SANDBOX: &str = include_str!("js/sandbox.js");
const ACTIONS: &str = include_str!("js/actions.js");

/// A module with the state of one partition.
pub(super) struct Engine {
    // Before the context and the runtime that it lies in: fields are dropped in this order.
    driver: Option<Persistent<Object<'static>>>,
    context: Context,
    runtime: Runtime,
    meter: Rc<Meter>,
    version: u64,
    types: HashMap<String, Type>,
    authorizes: bool,
    /// Why the state is not to be used any more.
    broken: Option<Fault>,
}

struct Type {
    schema_version: u64,
    schema: Schema,
    upcasts: Vec<u64>,
}

/// What the driver says of a module.
#[derive(Deserialize)]
struct Description {
    problems: Vec<String>,
    #[serde(default)]
    version: f64,
    types: HashMap<String, TypeDescription>,
    #[serde(default)]
    authorizes: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeDescription {
    schema_version: f64,
    /// JSON in a text.
    schema: String,
    upcasts: Vec<f64>,
}

/// Why a module was not loaded: everything that is wrong with it.
pub(super) type Problems = Vec<String>;

struct Files {
    sources: Rc<RefCell<dyn Sources>>,
    /// Nothing is imported any more once the module is loaded.
    is_closed: Rc<Cell<bool>>,
}

impl Loader for Files {
    fn load<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        name: &str,
        _: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<Module<'js, Declared>> {
        let refused = |why: &str| rquickjs::Error::new_loading_message(name, why);
        if self.is_closed.get() {
            return Err(refused("rules import what they need at the top of their files"));
        }
        let text = match name {
            "insieme:actions" => ACTIONS.to_owned(),
            name if name.starts_with(OWN) => {
                return Err(refused("there is \"insieme:actions\" and nothing else"));
            }
            name => self.sources.borrow_mut().fetch(name).map_err(|why| refused(&why))?,
        };
        Module::declare(ctx.clone(), name, text)
    }
}

struct Paths;

impl Resolver for Paths {
    fn resolve<'js>(
        &mut self,
        _: &Ctx<'js>,
        base: &str,
        name: &str,
        _: Option<ImportAttributes<'js>>,
    ) -> rquickjs::Result<String> {
        resolve(base, name).map_err(|why| rquickjs::Error::new_resolving_message(base, name, why.as_str()))
    }
}

impl Engine {
    /// Loads a module: its own file `entry`, and what that imports.
    pub(super) fn load(entry: &str, sources: Rc<RefCell<dyn Sources>>) -> Result<Self, Problems> {
        let no_engine = |error: rquickjs::Error| vec![format!("QuickJS does not start: {error}")];
        let runtime = Runtime::new().map_err(no_engine)?;
        runtime.set_memory_limit(MEMORY_BYTES_MAX);
        runtime.set_max_stack_size(STACK_BYTES_MAX);
        let meter = Meter::shared();
        let counting = meter.clone();
        runtime.set_interrupt_handler(Some(Box::new(move || counting.tick())));
        let is_closed = Rc::new(Cell::new(false));
        runtime.set_loader(Paths, Files { sources: sources.clone(), is_closed: is_closed.clone() });
        let context = Context::builder()
            .with::<intrinsic::Eval>()
            .with::<intrinsic::RegExpCompiler>()
            .with::<intrinsic::RegExp>()
            .with::<intrinsic::Json>()
            .with::<intrinsic::Proxy>()
            .with::<intrinsic::MapSet>()
            .with::<intrinsic::Promise>()
            .build(&runtime)
            .map_err(no_engine)?;
        let mut engine = Self {
            driver: None,
            context,
            runtime,
            meter,
            version: 0,
            types: HashMap::new(),
            authorizes: false,
            broken: None,
        };
        let source = sources.borrow_mut().fetch(entry).map_err(|why| vec![why])?;
        engine.start(entry, source)?;
        is_closed.set(true);
        Ok(engine)
    }

    fn start(&mut self, entry: &str, source: String) -> Result<(), Problems> {
        let meter = self.meter.clone();
        let ticked = self.meter.clone();
        meter.arm(LOAD_TICKS_MAX);
        let described = self.context.with(|ctx| -> Result<(Persistent<Object<'static>>, String), Fault> {
            let fault = |error: CaughtError<'_>| fault_of(error, &meter);
            let membrane: Object = own(&ctx, "insieme:membrane", MEMBRANE).catch(&ctx).map_err(fault)?;
            let make: Function = own(&ctx, "insieme:driver", DRIVER).catch(&ctx).map_err(fault)?;
            let ticked = Function::new(ctx.clone(), move || ticked.ticks() > 0).catch(&ctx).map_err(fault)?;
            let driver: Object = make.call((membrane, ticked)).catch(&ctx).map_err(fault)?;
            own::<Value>(&ctx, "insieme:sandbox", SANDBOX).catch(&ctx).map_err(fault)?;
            let (module, loaded) = Module::declare(ctx.clone(), entry, source)
                .and_then(Module::eval)
                .catch(&ctx)
                .map_err(fault)?;
            match loaded.finish::<()>() {
                Err(rquickjs::Error::WouldBlock) => {
                    return Err(Fault::new(FaultKind::Threw, "a module of rules cannot await anything", ""));
                }
                finished => finished.catch(&ctx).map_err(fault)?,
            }
            let namespace = module.namespace().catch(&ctx).map_err(fault)?;
            let describe: Function = driver.get("describe").catch(&ctx).map_err(fault)?;
            let text: String = describe.call((namespace,)).catch(&ctx).map_err(fault)?;
            match meter.is_exceeded() {
                true => Err(Fault::new(FaultKind::Steps, "loading the module", "")),
                false => Ok((Persistent::save(&ctx, driver), text)),
            }
        });
        let (driver, text) = described.map_err(|fault| vec![fault.to_string()])?;
        self.driver = Some(driver);
        let description: Description =
            serde_json::from_str(&text).map_err(|error| vec![error.to_string()])?;
        self.take(description)
    }

    fn take(&mut self, description: Description) -> Result<(), Problems> {
        let Description { mut problems, version, types, authorizes } = description;
        for (name, TypeDescription { schema_version, schema, upcasts }) in types {
            match Schema::parse(&schema) {
                Ok(schema) => {
                    let upcasts = upcasts.into_iter().map(|version| version as u64).collect();
                    let schema_version = schema_version as u64;
                    self.types.insert(name, Type { schema_version, schema, upcasts });
                }
                Err(why) => problems.push(format!("events[{name:?}].schema: {why}")),
            }
        }
        self.version = version as u64;
        self.authorizes = authorizes;
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// The module's version.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Whether the module says who may open a partition.
    pub(super) fn authorizes(&self) -> bool {
        self.authorizes
    }

    /// The event types that the module knows, in their order.
    pub(super) fn types(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.types.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Begins a partition, with a state or with the initial one.
    pub(super) fn open(&mut self, state: Option<&str>) -> Result<(), Fault> {
        self.broken = None;
        // What was accepted within the bound must not fail to be read again.
        self.runtime.set_memory_limit(MEMORY_BYTES_MAX + TAKE_BACK_BYTES);
        self.metered("open", [state.unwrap_or_default(), "", ""], LOAD_TICKS_MAX).map(drop)
    }

    /// The state as JSON, not in canonical form.
    pub(super) fn state(&mut self) -> Result<String, Fault> {
        if let Some(fault) = &self.broken {
            return Err(fault.clone());
        }
        self.invoke("state", ["", "", ""], u64::MAX)
    }

    /// Makes of a state of version `from` one of this module's.
    pub(super) fn migrate(&mut self, from: u64) -> Result<(), Fault> {
        self.metered("migrate", [&from.to_string(), "", ""], LOAD_TICKS_MAX).map(drop)
    }

    /// Decides a draft, and folds it if there is nothing against it.
    pub(super) fn decide(&mut self, text: &str) -> Result<Verdict, Fault> {
        self.runtime.set_memory_limit(MEMORY_BYTES_MAX);
        let mut event = parsed(text)?;
        if !self.types.contains_key(&event.event_type) {
            return Ok(Verdict::unknown(&event.event_type));
        }
        let mut verdict = Verdict::default();
        let text = match self.lift(&mut event) {
            Ok(lifted) => lifted.unwrap_or_else(|| text.to_owned()),
            Err(Stopped::Fault(fault)) => return Ok(verdict.failed(fault)),
            Err(Stopped::Finding(error)) => {
                verdict.errors.push(error);
                return Ok(verdict);
            }
        };
        verdict.errors = self.check_payload(&event);
        if !verdict.errors.is_empty() {
            return Ok(verdict);
        }
        if self.authorizes {
            match self.authorize(&text) {
                Ok(true) => {}
                Ok(false) => {
                    let message = "the application's rules do not let this client into this partition";
                    verdict.errors.push(finding("partition", "FORBIDDEN", message));
                    verdict.is_forbidden = true;
                    return Ok(verdict);
                }
                Err(fault) => return Ok(verdict.failed(fault)),
            }
        }
        match self.metered("allow", [&text, "", ""], TICKS_MAX) {
            Ok(allowed) if allowed == "true" => {}
            Ok(_) => {
                let message =
                    format!("the application's rules do not let this client submit {:?}", event.event_type);
                verdict.errors.push(finding("type", "FORBIDDEN", &message));
                verdict.is_forbidden = true;
                return Ok(verdict);
            }
            Err(fault) => return Ok(verdict.failed(fault)),
        }
        match self.metered("check", [&text, "", ""], TICKS_MAX) {
            Ok(found) => verdict.errors = findings(&found)?,
            Err(fault) => return Ok(verdict.failed(fault)),
        }
        if !verdict.errors.is_empty() {
            return Ok(verdict);
        }
        match self.metered("reduce", [&text, "", ""], TICKS_MAX) {
            Ok(_) => {
                verdict.is_folded = true;
                self.invoke("keep", ["1", "", ""], u64::MAX)?;
            }
            Err(fault) => verdict = verdict.failed(fault),
        }
        match &self.broken {
            Some(fault) => Err(fault.clone()),
            None => Ok(verdict),
        }
    }

    /// Whether somebody may open a partition.
    pub(super) fn authorize(&mut self, text: &str) -> Result<bool, Fault> {
        Ok(self.metered("authorize", [text, "", ""], TICKS_MAX)? == "true")
    }

    /// Folds an event that these rules have accepted.
    pub(super) fn fold(&mut self, text: &str) -> Result<(), Fault> {
        // What was accepted within the bound must not fail to be folded again.
        self.runtime.set_memory_limit(MEMORY_BYTES_MAX + TAKE_BACK_BYTES);
        let mut event = parsed(text)?;
        if !self.types.contains_key(&event.event_type) {
            let message = format!("it has accepted an event of type {:?}, and knows none", event.event_type);
            return Err(Fault::new(FaultKind::Threw, &message, ""));
        }
        let text = match self.lift(&mut event) {
            Ok(lifted) => lifted.unwrap_or_else(|| text.to_owned()),
            Err(Stopped::Fault(fault)) => return Err(fault),
            Err(Stopped::Finding(error)) => return Err(Fault::new(FaultKind::Threw, &error.message, "")),
        };
        self.metered("reduce", [&text, "", ""], TICKS_MAX)?;
        self.invoke("keep", ["1", "", ""], u64::MAX).map(drop)
    }

    /// Decides an event as if it were a draft, and folds it, accepted or not.
    pub(super) fn review(&mut self, text: &str) -> Result<Verdict, Fault> {
        self.runtime.set_memory_limit(MEMORY_BYTES_MAX);
        let mut event = parsed(text)?;
        if !self.types.contains_key(&event.event_type) {
            return Ok(Verdict::unknown(&event.event_type));
        }
        let mut verdict = Verdict::default();
        let text = match self.lift(&mut event) {
            Ok(None) => text.to_owned(),
            Ok(Some(lifted)) => lifted,
            Err(Stopped::Fault(fault)) => return Ok(verdict.failed(fault)),
            Err(Stopped::Finding(error)) => {
                verdict.errors.push(error);
                return Ok(verdict);
            }
        };
        verdict.errors = self.check_payload(&event);
        if verdict.errors.is_empty() {
            match self.metered("check", [&text, "log", ""], TICKS_MAX) {
                Ok(found) if found == "asked" => verdict.is_undecided = true,
                Ok(found) => verdict.errors = findings(&found)?,
                Err(fault) => verdict = verdict.failed(fault),
            }
        }
        match self.metered("reduce", [&text, "", ""], TICKS_MAX) {
            Ok(_) => {
                verdict.is_folded = true;
                self.invoke("keep", ["1", "", ""], u64::MAX)?;
            }
            // What is refused need not fold.
            Err(fault) if !verdict.errors.is_empty() => verdict.fault = verdict.fault.or(Some(fault)),
            Err(fault) => verdict = verdict.failed(fault),
        }
        match &self.broken {
            Some(fault) => Err(fault.clone()),
            None => Ok(verdict),
        }
    }

    /// Brings a payload to the version that the rules know. The event's text, if that changed it.
    fn lift(&mut self, event: &mut AppEvent) -> Result<Option<String>, Stopped> {
        let Some(known) = self.types.get(&event.event_type) else { return Ok(None) };
        let from = event.event.schema_version.unwrap_or(known.schema_version);
        if from > known.schema_version {
            let message = format!("the rules know version {} at most", known.schema_version);
            return Err(Stopped::Finding(finding("schemaVersion", "UNKNOWN_SCHEMA_VERSION", &message)));
        }
        if from == known.schema_version || !known.upcasts.contains(&from) {
            return Ok(None);
        }
        let lifted = self
            .metered("lift", [&event.event_type, &from.to_string(), event.payload.get()], TICKS_MAX)
            .map_err(Stopped::Fault)?;
        let no_json =
            |error: serde_json::Error| Stopped::Fault(Fault::new(FaultKind::Threw, &error.to_string(), ""));
        event.payload = RawValue::from_string(lifted).map_err(no_json)?;
        serde_json::to_string(event).map(Some).map_err(no_json)
    }

    /// What is wrong with a payload, whatever the state.
    fn check_payload(&self, event: &AppEvent) -> Vec<FieldError> {
        let text = event.payload.get();
        let payload = match Node::parse(text.as_bytes()) {
            Ok(payload) => payload,
            Err(error) => return vec![finding("payload", "SCHEMA_ERROR", &error.to_string())],
        };
        let mut errors = Vec::new();
        forbidden_keys(&payload, "payload", &mut errors);
        match self.types.get(&event.event_type) {
            Some(known) if errors.is_empty() => known.schema.findings(&payload, "payload", text.len()),
            _ => errors,
        }
    }

    /// Calls the module, within a number of ticks that is the same wherever the engine's own count stands. A call that
    /// fails has changed nothing.
    ///
    /// The engine counts down from 10,000 steps over and over, and where it stands is chance. A call that takes
    /// fewer ticks than one less than the bound is within it wherever the count stood. Of others nobody
    /// knows, so the count is brought to its beginning, and the call is made again.
    fn metered(&mut self, name: &str, arguments: [&str; 3], ticks_max: u64) -> Result<String, Fault> {
        if let Some(fault) = &self.broken {
            return Err(fault.clone());
        }
        let first = self.attempt(name, arguments, ticks_max - 1);
        let Err(Fault { kind: FaultKind::Steps, .. }) = first else { return first };
        self.invoke("align", ["", "", ""], u64::MAX)?;
        self.attempt(name, arguments, ticks_max)
    }

    fn attempt(&mut self, name: &str, arguments: [&str; 3], ticks_max: u64) -> Result<String, Fault> {
        let result = self.invoke(name, arguments, ticks_max);
        // It may have caught that it was to end.
        let result = match result {
            Ok(_) if self.meter.is_exceeded() => {
                if name == "reduce" {
                    self.take_back("back");
                }
                Err(Fault::new(FaultKind::Steps, "it caught that it was stopped, and went on", ""))
            }
            Ok(_) if self.runtime.is_job_pending() => {
                if name == "reduce" {
                    self.take_back("back");
                }
                self.end_jobs();
                let message = "it started something that is to go on later: rules are synchronous";
                Err(Fault::new(FaultKind::Threw, message, ""))
            }
            result => result,
        };
        if result.is_err() {
            self.take_back("abandon");
        }
        result
    }

    /// Has done with what a rule left to be done later. With no state at hand it can do nothing.
    fn end_jobs(&mut self) {
        self.meter.arm(TICKS_MAX);
        while self.runtime.is_job_pending() {
            // A job that fails is gone too.
            if let Err(error) = self.runtime.execute_pending_job() {
                drop(error);
            }
            if self.meter.is_exceeded() {
                self.broken = Some(Fault::new(FaultKind::Steps, "what it started goes on for ever", ""));
                return;
            }
        }
    }

    fn take_back(&mut self, how: &str) {
        self.runtime.run_gc();
        self.runtime.set_memory_limit(MEMORY_BYTES_MAX + TAKE_BACK_BYTES);
        if let Err(fault) = self.invoke(how, ["1", "", ""], u64::MAX) {
            self.broken = Some(fault);
        }
        self.runtime.set_memory_limit(MEMORY_BYTES_MAX);
    }

    fn invoke(&self, name: &str, [a, b, c]: [&str; 3], ticks_max: u64) -> Result<String, Fault> {
        let Some(driver) = self.driver.clone() else {
            return Err(Fault::new(FaultKind::Threw, "no module is loaded", ""));
        };
        self.context.with(|ctx| {
            let call = || -> rquickjs::Result<Option<String>> {
                let function: Function = driver.restore(&ctx)?.get(name)?;
                self.meter.arm(ticks_max);
                let result: Value = function.call((a, b, c))?;
                result.as_string().map(rquickjs::String::to_string).transpose()
            };
            let result = call().catch(&ctx).map_err(|error| fault_of(error, &self.meter));
            result.map(Option::unwrap_or_default)
        })
    }
}

fn parsed(text: &str) -> Result<AppEvent, Fault> {
    serde_json::from_str(text)
        .map_err(|error| Fault::new(FaultKind::Threw, &format!("no event: {error}"), ""))
}

/// Why an event got no further than its version.
enum Stopped {
    Fault(Fault),
    Finding(FieldError),
}

fn own<'js, V: rquickjs::FromJs<'js>>(ctx: &Ctx<'js>, name: &str, source: &str) -> rquickjs::Result<V> {
    let mut options = EvalOptions::default();
    options.filename = Some(name.to_owned());
    ctx.eval_with_options(source, options)
}

fn fault_of(error: CaughtError<'_>, meter: &Meter) -> Fault {
    let (message, trace) = match error {
        CaughtError::Exception(exception) => {
            let name: Option<String> = exception.as_object().get("name").ok();
            let message = exception.message().unwrap_or_default();
            let message = match name.as_deref() {
                Some("Error") | None => message,
                Some(name) => format!("{name}: {message}"),
            };
            (message, exception.stack().unwrap_or_default())
        }
        CaughtError::Value(value) => {
            // What the engine throws when there is no memory left for an error.
            if value.is_null() {
                return Fault::new(FaultKind::Memory, "out of memory, or the rule threw null", "");
            }
            let shown = value.as_string().and_then(|text| text.to_string().ok());
            let shown = shown.unwrap_or_else(|| format!("a value of type {}", value.type_of()));
            (format!("{shown} (which is no Error, so nobody knows where)"), String::new())
        }
        CaughtError::Error(error) => (error.to_string(), String::new()),
    };
    // Frames of the engine's own scripts say nothing to who wrote the module.
    let trace: Vec<&str> =
        trace.lines().filter(|line| !line.contains("(insieme:") && !line.contains("(native)")).collect();
    let kind = match message.as_str() {
        _ if meter.is_exceeded() => FaultKind::Steps,
        text if text.contains("out of memory") => FaultKind::Memory,
        text if text.contains("Maximum call stack") || text.contains("stack overflow") => FaultKind::Stack,
        _ => FaultKind::Threw,
    };
    Fault::new(kind, &message, &trace.join("\n"))
}

#[derive(Deserialize)]
struct Found {
    code: String,
    field: String,
    message: String,
}

fn findings(text: &str) -> Result<Vec<FieldError>, Fault> {
    let found: Vec<Found> = serde_json::from_str(text)
        .map_err(|error| Fault::new(FaultKind::Threw, &format!("the findings are no JSON: {error}"), ""))?;
    Ok(found.into_iter().map(|found| finding(&found.field, &found.code, &found.message)).collect())
}

/// Reports every key that would poison a JavaScript client.
fn forbidden_keys(value: &Node, at: &str, errors: &mut Vec<FieldError>) {
    if errors.len() >= FINDINGS_MAX {
        return;
    }
    match value {
        Json::Array(values) => values.iter().for_each(|value| forbidden_keys(value, at, errors)),
        Json::Object(fields) => {
            for (key, value) in fields.iter() {
                if matches!(key, "__proto__" | "prototype" | "constructor") {
                    errors.push(finding(
                        &format!("{at}.{key}"),
                        "FORBIDDEN_KEY",
                        &format!("{key:?} must not be a key"),
                    ));
                } else if matches!(value, Json::Array(_) | Json::Object(_)) {
                    forbidden_keys(value, &format!("{at}.{key}"), errors);
                }
            }
        }
        _ => {}
    }
}
