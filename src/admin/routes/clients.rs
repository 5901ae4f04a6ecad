//! `/clients`: the clients that are connected, over all frontends, and what versions they run.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::processes::add_missing_and_failed;
use crate::admin::problem::Problem;
use crate::admin::query::Query;
use crate::admin::request::AdminRequest;
use crate::admin::response::json as json_response;
use crate::control::{Answer, Audience, ClientFilter, Command, FoundClient, Gathered};
use crate::event::{ClientId, PartitionKey};

/// `GET /clients?partition=&version=&after=&limit=`
pub(crate) async fn list(AdminRequest { hub, admin, query }: AdminRequest) -> Result<Response, Problem> {
    admin.require_global()?;
    let query = Query::parse(query.as_deref(), &["partition", "version", "after", "limit"])?;
    let wrong = |name: &str, error: &dyn std::fmt::Display| {
        Problem::bad_request(format!("the parameter {name}: {error}"))
    };
    let partition = query.text("partition").map(PartitionKey::new).transpose();
    let after = query.text("after").map(ClientId::new).transpose();
    let filter = ClientFilter {
        partition: partition.map_err(|error| wrong("partition", &error))?,
        version: query.text("version").map(str::to_owned),
        after: after.map_err(|error| wrong("after", &error))?,
        limit: query.limit(hub.settings.page_entries_default, hub.settings.page_entries_max)?,
    };
    let limit = filter.limit;
    let survey = hub.control.ask(Audience::Frontends, &Command::Clients(filter)).await?;
    let mut body = json!({});
    add_missing_and_failed(&survey, &mut body);
    let page = Page::of(survey, limit);
    body["clients"] = page.clients.iter().map(described).collect();
    body["next"] = page.next.map(|next| next.as_str().to_owned()).into();
    body["connections"] = page.connections.into();
    body["versions"] = page
        .versions
        .into_iter()
        .map(|(version, count)| json!({ "version": version, "connections": count }))
        .collect();
    Ok(json_response(StatusCode::OK, &body))
}

fn described((found, frontends): &(FoundClient, Vec<String>)) -> Value {
    json!({
        "client": found.client,
        "user": found.user,
        "connections": found.connections,
        "versions": found.versions,
        "since": found.since_ms,
        "lastHeartbeat": found.last_heartbeat_ms,
        "frontends": frontends,
    })
}

/// Some of the clients of all frontends, in the order of their ids, each with the frontends that it is connected to.
#[derive(Default)]
struct Page {
    clients: Vec<(FoundClient, Vec<String>)>,
    /// Where the next page begins: after this one.
    next: Option<ClientId>,
    connections: u64,
    /// With how many connections run each; the most frequent first.
    versions: Vec<(String, u64)>,
}

impl Page {
    /// The first `limit` of what the frontends have found.
    fn of(survey: Gathered, limit: usize) -> Self {
        let mut page = Self::default();
        let mut clients: BTreeMap<ClientId, (FoundClient, Vec<String>)> = BTreeMap::new();
        let mut versions: BTreeMap<String, u64> = BTreeMap::new();
        // After the last one of a frontend that has more, not all is known of a client.
        let mut known_upto: Option<ClientId> = None;
        for (process, answer) in survey.answers {
            let Answer::Clients(part) = answer else { continue };
            page.connections += part.connections;
            for (version, count) in part.versions {
                *versions.entry(version).or_default() += count;
            }
            if let (true, Some(last)) = (part.more, part.found.last()) {
                known_upto =
                    Some(known_upto.map_or(last.client.clone(), |upto| upto.min(last.client.clone())));
            }
            for found in part.found {
                match clients.entry(found.client.clone()) {
                    Entry::Vacant(place) => drop(place.insert((found, vec![process.id.clone()]))),
                    Entry::Occupied(mut place) => {
                        let (known, frontends) = place.get_mut();
                        join(known, found);
                        frontends.push(process.id.clone());
                    }
                }
            }
        }
        page.versions = versions.into_iter().collect();
        page.versions.sort_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then(a.cmp(b)));
        let found = clients.len();
        let is_known = |client: &ClientId| known_upto.as_ref().is_none_or(|upto| client <= upto);
        page.clients = clients
            .into_iter()
            .filter(|(client, _)| is_known(client))
            .map(|(_, found)| found)
            .take(limit)
            .collect();
        if known_upto.is_some() || found > page.clients.len() {
            page.next = page.clients.last().map(|(last, _)| last.client.clone());
        }
        page
    }
}

/// Adds what another frontend knows of a client.
fn join(known: &mut FoundClient, other: FoundClient) {
    known.connections += other.connections;
    known.user = known.user.take().or(other.user);
    known.since_ms = known.since_ms.min(other.since_ms);
    known.last_heartbeat_ms = known.last_heartbeat_ms.max(other.last_heartbeat_ms);
    known.versions.extend(other.versions);
    known.versions.sort_unstable();
    known.versions.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{FoundClients, Process, Role};

    fn part(frontend: &str, clients: &[&str], more: bool) -> (Process, Answer) {
        let found = clients.iter().zip(1..).map(|(client, n)| FoundClient {
            client: ClientId::new(*client).unwrap(),
            user: None,
            connections: n,
            versions: vec![format!("of {frontend}")],
            since_ms: n,
            last_heartbeat_ms: n,
        });
        let found = FoundClients {
            total: 9,
            connections: 9,
            versions: vec![(format!("of {frontend}"), 9)],
            found: found.collect(),
            more,
        };
        (Process { role: Role::Frontend, id: frontend.into() }, Answer::Clients(found))
    }

    fn page(parts: Vec<(Process, Answer)>, limit: usize) -> Page {
        Page::of(Gathered { answers: parts, missing: Vec::new() }, limit)
    }

    fn ids(page: &Page) -> Vec<&str> {
        page.clients.iter().map(|(found, _)| found.client.as_str()).collect()
    }

    #[test]
    fn a_client_of_two_frontends_is_one_and_a_page_ends_where_not_all_is_known() {
        let all = page(vec![part("f", &["a", "c"], false), part("g", &["b", "c"], false)], 4);
        assert_eq!((ids(&all), &all.next, all.connections), (vec!["a", "b", "c"], &None, 18));
        let (c, frontends) = &all.clients[2];
        assert_eq!(
            (c.connections, c.versions.len(), frontends),
            (4, 2, &vec!["f".to_owned(), "g".to_owned()])
        );
        assert_eq!(all.versions, [("of f".to_owned(), 9), ("of g".to_owned(), 9)]);
        let first = page(vec![part("f", &["a", "c"], false), part("g", &["b", "c"], false)], 2);
        assert_eq!((ids(&first), first.next.as_ref().map(ClientId::as_str)), (vec!["a", "b"], Some("b")));
        // g has more after b, which may be c too.
        let cut = page(vec![part("f", &["a", "c"], false), part("g", &["b"], true)], 4);
        assert_eq!((ids(&cut), cut.next.as_ref().map(ClientId::as_str)), (vec!["a", "b"], Some("b")));
    }
}
