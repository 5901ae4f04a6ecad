//! The deciding step.

use super::check::{Check, check_keys, check_names};
use super::conflict::{self, Verdict};
use super::finding::finding;
use super::registry::Entry;
use super::schema::schema_error;
use super::schema::set::Lookup;
use super::{Decision, Rules};
use crate::auth::permissions;
use crate::event::{ContentHash, Draft, DraftKey, FieldError, Reason, Submitter};
use crate::json::canonical::content_hash_of;
use crate::state::{Accepted, DraftLookup, Node, PartitionState, WriteSet};

impl Rules {
    /// Decides a draft against a partition's state, staged events included.
    ///
    /// A draft that is committed already answers with that commit before any layer is asked, since the
    /// state has moved on; and a key that is committed with other content answers `DUPLICATE_DRAFT`
    /// whatever the layers would say, since nothing else about that draft can be put right.
    ///
    /// Then what the token permits, which costs next to nothing: whoever may not do it has no schema looked at, and
    /// learns nothing of the state.
    pub fn decide(&self, state: &PartitionState, submitter: &Submitter, draft: &Draft) -> Decision {
        let (key, content) = match self.admit(state, submitter, draft) {
            Ok(admitted) => admitted,
            Err(decision) => return decision,
        };
        let Content { payload, meta, content_hash, .. } = content;
        let entry = self.registry.get(&draft.event_type);
        let target = entry.and_then(|entry| entry.event_type.target(&payload));
        let found = self.check_schema(entry, draft, &payload);
        if !found.is_empty() {
            return Decision::Reject { reason: Reason::ValidationFailed, errors: found };
        }

        let ordinal = state.ordinal() + state.staged() as u64 + 1;
        let (first, limits) = (!state.is_opened() && state.staged() == 0, self.config.limits);
        let mut check = Check { doc: state.document(), first, limits, errors: Vec::new() };
        check_names(entry.map(|entry| &*entry.event_type), &payload, &mut check);
        if let Some(meta) = &meta {
            check_keys(meta, &mut "meta".to_owned(), &mut check);
        }
        if let Some(entry) = entry {
            entry.event_type.check(&payload, &mut check);
        }
        if !check.errors.is_empty() {
            return Decision::Reject { reason: Reason::ValidationFailed, errors: check.errors };
        }

        let touch = entry.map_or(WriteSet::Nothing, |entry| entry.event_type.touch(&payload));
        let policy = self.config.conflicts.of(target);
        match conflict::check(state, policy, &submitter.client_id, draft.base_event_id, &touch) {
            Verdict::Clear => {}
            Verdict::Conflict(error) => {
                return Decision::Reject { reason: Reason::Conflict, errors: vec![error] };
            }
            Verdict::Wait => return Decision::Wait,
            Verdict::NeedHistory(from) => return Decision::NeedHistory { from },
        }

        Decision::Commit(Box::new(Accepted {
            key,
            content_hash,
            client: submitter.client_id.clone(),
            event_type: draft.event_type.clone(),
            payload,
            touch,
            ordinal,
        }))
    }

    /// What is decided of a draft before an application's rules are asked: its key and the hash of what it says, or
    /// what becomes of it whatever those say.
    pub fn admit_to_app(
        &self,
        state: &PartitionState,
        submitter: &Submitter,
        draft: &Draft,
    ) -> Result<(DraftKey, ContentHash), Decision> {
        let (key, content) = self.admit(state, submitter, draft)?;
        // What a type of this name acts on is the application's to say: a token for a part of the state is for none.
        let entry = self.registry.get(&draft.event_type);
        let target = entry.and_then(|entry| entry.event_type.target(&content.payload));
        if !permissions::allows(&submitter.permissions, &draft.event_type, target) {
            return Err(Decision::Reject {
                reason: Reason::Forbidden,
                errors: vec![forbidden(draft, target)],
            });
        }
        if let Some(meta) = &content.meta {
            let mut check =
                Check { doc: state.document(), first: false, limits: self.config.limits, errors: Vec::new() };
            check_keys(meta, &mut "meta".to_owned(), &mut check);
            if !check.errors.is_empty() {
                return Err(Decision::Reject { reason: Reason::ValidationFailed, errors: check.errors });
            }
        }
        Ok((key, content.content_hash))
    }

    /// What every draft goes through, whoever decides it: whether it is committed already, what stands around its
    /// payload, and what the token permits.
    fn admit(
        &self,
        state: &PartitionState,
        submitter: &Submitter,
        draft: &Draft,
    ) -> Result<(DraftKey, Content), Decision> {
        let rejected = |errors| Decision::Reject { reason: Reason::ValidationFailed, errors };
        let mut content = read(draft).map_err(|error| rejected(vec![error]))?;
        let content_hash = content.content_hash;
        let key = draft.key(&submitter.client_id);
        if state.is_staged(&key) {
            return Err(Decision::Wait);
        }
        match state.lookup(&key) {
            DraftLookup::NotFound => {}
            DraftLookup::Committed(id, committed) if committed == content_hash => {
                return Err(Decision::AlreadyCommitted(id));
            }
            DraftLookup::Committed(..) => return Err(duplicate(draft)),
            DraftLookup::Maybe => return Err(Decision::NeedDraft),
        }

        // What an earlier version has committed is found above; nothing new of the kind is.
        if let Some(error) = content.twice.take().or_else(|| self.check_envelope(draft)) {
            return Err(rejected(vec![error]));
        }
        let entry = self.registry.get(&draft.event_type);
        let target = entry.and_then(|entry| entry.event_type.target(&content.payload));
        // A payload without the target that its type asks for is told so, if the action is permitted anywhere.
        let permits = match target {
            None if entry.is_some_and(|entry| entry.event_type.has_target()) => permissions::allows_somewhere,
            _ => permissions::allows,
        };
        if !permits(&submitter.permissions, &draft.event_type, target) {
            return Err(Decision::Reject {
                reason: Reason::Forbidden,
                errors: vec![forbidden(draft, target)],
            });
        }
        Ok((key, content))
    }

    /// Checks what stands around the payload: names that are bounded, and a type that is no action of a token's.
    ///
    /// Types and actions share one name space. A token with `read` would otherwise commit events of a type `read`,
    /// and one with `set:doc` events of a type `set:doc`, which no built-in rule looks at.
    fn check_envelope(&self, draft: &Draft) -> Option<FieldError> {
        let name = draft.event_type.as_str();
        let action = name.split(':').next().unwrap_or_default();
        let is_action = matches!(action, "read" | "admin" | "*");
        if is_action || (action != name && self.registry.get(action).is_some()) {
            let message =
                format!("{name:?} means something in a token's permissions, so it is no event type");
            return Some(finding("type", "RESERVED_TYPE", &message));
        }
        let v1 = draft.v1.as_ref();
        let names = [
            ("type", Some(name)),
            ("partition", v1.map(|v1| v1.label.as_str())),
            ("userId", v1.and_then(|v1| v1.user_id.as_deref())),
        ];
        let too_long = names.iter().find(|(_, name)| name.is_some_and(|name| name.len() > NAME_BYTES_MAX));
        too_long.map(|(field, _)| schema_error(field, &format!("has more than {NAME_BYTES_MAX} bytes")))
    }

    /// The layer of the schemas.
    fn check_schema(&self, entry: Option<&Entry>, draft: &Draft, payload: &Node) -> Vec<FieldError> {
        let schemas = &self.config.schemas;
        let (name, bytes) = (&draft.event_type, draft.payload.get().len());
        if let Some(entry) = entry {
            let found = entry.schema.findings(payload, "payload", bytes);
            if !found.is_empty() {
                return found;
            }
            let Some((name, data)) = entry.event_type.domain_data(payload) else { return found };
            return match schemas.named(name) {
                Some(schema) => schema.findings(data, "payload.data", bytes),
                None => vec![schema_error("payload.schema", &format!("no schema {name:?} is registered"))],
            };
        }
        let Some(v1) = &draft.v1 else {
            return match schemas.named(name) {
                Some(schema) => schema.findings(payload, "payload", bytes),
                None => vec![unknown_type(name)],
            };
        };
        match schemas.version(name, v1.schema_version) {
            Lookup::Found(schema) => schema.findings(payload, "payload", bytes),
            Lookup::UnknownName if self.config.refuse_unknown_v1_types => vec![unknown_type(name)],
            Lookup::UnknownVersion if self.config.refuse_unknown_v1_versions => {
                let message = format!("{name:?} has no schema of version {}", v1.schema_version);
                vec![finding("schemaVersion", "UNKNOWN_SCHEMA_VERSION", &message)]
            }
            Lookup::UnknownName | Lookup::UnknownVersion => Vec::new(),
        }
    }
}

fn unknown_type(name: &str) -> FieldError {
    finding("type", "UNKNOWN_EVENT_TYPE", &format!("there is no event type {name:?}"))
}

/// The longest event type, v1 partition and v1 user id, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// What a draft says.
struct Content {
    payload: Node,
    /// Of a v1 draft.
    meta: Option<Node>,
    content_hash: ContentHash,
    /// A key that one of its objects has twice.
    twice: Option<FieldError>,
}

/// Reads what a draft says, and hashes it.
fn read(draft: &Draft) -> Result<Content, FieldError> {
    let mut twice = None;
    let mut node = |field: &str, text: &str| {
        let mut key = None;
        let node = Node::parse_noting(text.as_bytes(), &mut key)
            .map_err(|error| schema_error(field, &error.to_string()))?;
        let found = key.map(|key| finding(field, "DUPLICATE_KEY", &format!("an object has {key:?} twice")));
        twice = twice.take().or(found);
        Ok(node)
    };
    let payload = node("payload", draft.payload.get())?;
    let meta = draft.v1.as_ref().map(|v1| node("meta", v1.meta.get())).transpose()?;
    let content_hash = content_hash_of(draft, &payload.canonical(), meta.as_ref());
    Ok(Content { payload, meta, content_hash, twice })
}

fn duplicate(draft: &Draft) -> Decision {
    let field = if draft.v1.is_some() { "id" } else { "draftId" };
    let message = format!("{:?} was committed with other content", draft.draft_id);
    let errors = vec![finding(field, "DUPLICATE_DRAFT", &message)];
    Decision::Reject { reason: Reason::DuplicateDraft, errors }
}

fn forbidden(draft: &Draft, target: Option<&str>) -> FieldError {
    let on = target.map(|target| format!(" on {target:?}")).unwrap_or_default();
    let message = format!("the token does not permit {:?}{on}", draft.event_type);
    finding(if target.is_some() { "payload.target" } else { "type" }, "FORBIDDEN", &message)
}
