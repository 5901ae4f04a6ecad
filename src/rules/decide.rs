//! The deciding step.

use super::business::{Check, check_names};
use super::conflict::{self, Verdict};
use super::finding::finding;
use super::registry::Entry;
use super::schema::schema_error;
use super::schema_set::Lookup;
use super::{Decision, Rules};
use crate::auth::permissions;
use crate::event::canonical::content_hash_with;
use crate::event::{ContentHash, Draft, FieldError, Reason, Submitter};
use crate::state::{Accepted, DraftLookup, Node, PartitionState, Touch};

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
        let (payload, content_hash) = match read(draft) {
            Ok(read) => read,
            Err(error) => return Decision::Reject { reason: Reason::ValidationFailed, errors: vec![error] },
        };
        let key = draft.key(&submitter.client_id);
        if state.is_staged(&key) {
            return Decision::Wait;
        }
        match state.lookup(&key) {
            DraftLookup::Fresh => {}
            DraftLookup::Committed(id, committed) if committed == content_hash => {
                return Decision::AlreadyCommitted(id);
            }
            DraftLookup::Committed(..) => return duplicate(draft),
            DraftLookup::Perhaps => return Decision::NeedDraft,
        }

        let entry = self.registry.get(&draft.event_type);
        let target = entry.and_then(|entry| entry.event_type.target(&payload));
        // A payload without the target that its type asks for is told so, if the action is permitted anywhere.
        let permits = match target {
            None if entry.is_some_and(|entry| entry.event_type.has_target()) => permissions::allows_somewhere,
            _ => permissions::allows,
        };
        if !permits(&submitter.permissions, &draft.event_type, target) {
            return Decision::Reject { reason: Reason::Forbidden, errors: vec![forbidden(draft, target)] };
        }
        let found = self.check_schema(entry, draft, &payload);
        if !found.is_empty() {
            return Decision::Reject { reason: Reason::ValidationFailed, errors: found };
        }

        let ordinal = state.ordinal() + state.staged() as u64 + 1;
        let (first, limits) = (!state.is_opened() && state.staged() == 0, self.config.limits);
        let mut check = Check { doc: state.document(), first, limits, errors: Vec::new() };
        check_names(entry.map(|entry| &*entry.event_type), &payload, &mut check);
        if let Some(entry) = entry {
            entry.event_type.check(&payload, &mut check);
        }
        if !check.errors.is_empty() {
            return Decision::Reject { reason: Reason::ValidationFailed, errors: check.errors };
        }

        let touch = entry.map_or(Touch::Nothing, |entry| entry.event_type.touch(&payload));
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

/// Reads what a draft says, and hashes it.
fn read(draft: &Draft) -> Result<(Node, ContentHash), FieldError> {
    let payload = Node::of(&draft.payload).map_err(|error| schema_error("payload", &error.to_string()))?;
    // The payload was read, so what cannot be is the meta.
    let hash = content_hash_with(draft, &payload.canonical())
        .map_err(|error| schema_error("meta", &error.to_string()))?;
    Ok((payload, hash))
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
