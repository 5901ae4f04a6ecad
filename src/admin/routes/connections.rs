//! `/partitions/{partition}/connections`, `/clients/{client}` and `/users/{user}`: who is connected, over all frontends.
//!
//! Nothing is stored: every frontend is asked, and gives its part of the page. An answer says which frontends
//! it rests on, and who is missing.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::partitions;
use super::processes::add_missing_and_failed;
use crate::admin::problem::Problem;
use crate::admin::query::Query;
use crate::admin::request::AdminRequest;
use crate::admin::response::json as json_response;
use crate::admin::state::AdminState;
use crate::auth::USER_ID_BYTES_MAX;
use crate::control::{
    Answer, Audience, Command, ConnectionFilter, ConnectionPlace, FoundConnection, FoundConnections, Gathered,
};
use crate::event::ClientId;

/// `GET /connections?after=&limit=`
pub(crate) async fn all(AdminRequest { hub, admin, query }: AdminRequest) -> Result<Response, Problem> {
    admin.require_global()?;
    answer(&hub, ConnectionFilter::default(), query.as_deref(), &mut json!({})).await
}

/// `GET /partitions/{partition}/connections?after=&limit=`
pub(crate) async fn of_partition(
    AdminRequest { hub, admin, query }: AdminRequest,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let partition = partitions::named(path)?;
    admin.may_enter(&partition)?;
    let mut body = json!({ "partition": partition });
    let filter = ConnectionFilter { partition: Some(partition), ..ConnectionFilter::default() };
    answer(&hub, filter, query.as_deref(), &mut body).await
}

/// `GET /clients/{client}?after=&limit=`
pub(crate) async fn of_client(
    AdminRequest { hub, admin, query }: AdminRequest,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    admin.require_global()?;
    let client = client_named(path)?;
    let mut body = json!({ "client": client });
    let filter = ConnectionFilter { client: Some(client), ..ConnectionFilter::default() };
    answer(&hub, filter, query.as_deref(), &mut body).await
}

/// `GET /users/{user}?after=&limit=`
pub(crate) async fn of_user(
    AdminRequest { hub, admin, query }: AdminRequest,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    admin.require_global()?;
    let user = user_named(path)?;
    let mut body = json!({ "user": user });
    let filter = ConnectionFilter { user: Some(user), ..ConnectionFilter::default() };
    answer(&hub, filter, query.as_deref(), &mut body).await
}

/// The user that a path names.
pub(crate) fn user_named(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let Path(id) = path.map_err(|error| Problem::bad_request(format!("the user id: {error}")))?;
    if id.is_empty() || id.len() > USER_ID_BYTES_MAX {
        return Err(Problem::bad_request(format!("the user id has 1 to {USER_ID_BYTES_MAX} bytes")));
    }
    Ok(id)
}

/// The client that a path names.
pub(crate) fn client_named(path: Result<Path<String>, PathRejection>) -> Result<ClientId, Problem> {
    let Path(id) = path.map_err(|error| Problem::bad_request(format!("the client id: {error}")))?;
    ClientId::new(id).map_err(|error| Problem::bad_request(format!("the client id {error}")))
}

async fn answer(
    hub: &AdminState,
    mut filter: ConnectionFilter,
    query: Option<&str>,
    body: &mut Value,
) -> Result<Response, Problem> {
    let query = Query::parse(query, &["after", "limit"])?;
    filter.limit = query.limit(hub.settings.page_entries_default, hub.settings.page_entries_max)?;
    filter.after = query.text("after").map(place_of).transpose()?;
    let limit = filter.limit;
    let demand = match filter.user {
        Some(_) => Command::UserConnections(filter),
        None => Command::Connections(filter),
    };
    let survey = hub.control.ask(Audience::Frontends, &demand).await?;
    add_missing_and_failed(&survey, body);
    let page = Page::of(survey, limit);
    body["connections"] = page.connections.iter().map(described).collect();
    body["next"] = page.next.as_ref().map(cursor_of).into();
    body["total"] = page.total.into();
    body["frontends"] = page.frontends.into();
    Ok(json_response(StatusCode::OK, body))
}

fn described((place, found): &(ConnectionPlace, FoundConnection)) -> Value {
    json!({
        "client": place.client,
        "user": found.user,
        "frontend": place.frontend,
        // Larger than what JavaScript can count with.
        "connection": place.connection.to_string(),
        "partition": found.partition,
        "partitions": found.partitions,
        "dialect": found.dialect,
        "address": found.address,
        "since": found.since_ms,
        "tokenId": found.token_id,
        "expiresAt": found.expires_at,
        "version": found.version,
        "userAgent": found.user_agent,
        // The text that the client wrote, and not what it says: nothing that a client wrote is read as a value that can
        // hold anything.
        "metadata": found.metadata,
        "lastHeartbeat": (found.last_heartbeat_ms > 0).then_some(found.last_heartbeat_ms),
    })
}

/// Some of the connections of all frontends, in the order of their places.
struct Page {
    connections: Vec<(ConnectionPlace, FoundConnection)>,
    /// Where the next page begins: behind this one.
    next: Option<ConnectionPlace>,
    total: u64,
    frontends: Vec<Value>,
}

impl Page {
    /// The first `limit` of what the frontends have found.
    fn of(survey: Gathered, limit: usize) -> Self {
        let mut page = Self { connections: Vec::new(), next: None, total: 0, frontends: Vec::new() };
        // Behind the last one of a frontend that has more, what the others have is not the next.
        let mut known_upto: Option<ConnectionPlace> = None;
        for (process, answer) in survey.answers {
            let Answer::Connections(FoundConnections { total, clients, found, more }) = answer else {
                continue;
            };
            page.total += total;
            page.frontends.push(json!({ "id": process.id, "connections": total, "clients": clients }));
            let place = |found: &FoundConnection| ConnectionPlace {
                client: found.client.clone(),
                frontend: process.id.clone(),
                connection: found.connection,
            };
            let places: Vec<_> = found.into_iter().map(|found| (place(&found), found)).collect();
            if let (true, Some((last, _))) = (more, places.last()) {
                known_upto = Some(known_upto.map_or(last.clone(), |upto| upto.min(last.clone())));
            }
            page.connections.extend(places);
        }
        page.connections.sort_by(|(a, _), (b, _)| a.cmp(b));
        let known = match &known_upto {
            Some(upto) => page.connections.partition_point(|(place, _)| place <= upto),
            None => page.connections.len(),
        };
        if known_upto.is_some() || known > limit {
            page.connections.truncate(known.min(limit));
            page.next = page.connections.last().map(|(place, _)| place.clone());
        }
        page
    }
}

/// A place as a request names it.
fn cursor_of(place: &ConnectionPlace) -> String {
    URL_SAFE_NO_PAD.encode(json!([place.client, place.frontend, place.connection]).to_string())
}

fn place_of(cursor: &str) -> Result<ConnectionPlace, Problem> {
    let wrong = || Problem::bad_request("the parameter after is the `next` of an earlier answer");
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| wrong())?;
    let (client, frontend, connection) = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
    Ok(ConnectionPlace { client, frontend, connection })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Process, Role};

    fn found(client: &str, connection: u64) -> FoundConnection {
        FoundConnection {
            client: ClientId::new(client).unwrap(),
            connection,
            user: None,
            partition: crate::event::PartitionKey::new("p").ok(),
            partitions: Vec::new(),
            dialect: "v1".into(),
            address: "::/64".into(),
            since_ms: 0,
            token_id: None,
            expires_at: None,
            version: None,
            user_agent: None,
            metadata: None,
            last_heartbeat_ms: 0,
        }
    }

    fn part(frontend: &str, clients: &[&str], more: bool) -> (Process, Answer) {
        let found = clients.iter().zip(1..).map(|(client, number)| found(client, number)).collect();
        let found = FoundConnections { total: 9, clients: 9, found, more };
        (Process { role: Role::Frontend, id: frontend.into() }, Answer::Connections(found))
    }

    fn page(parts: Vec<(Process, Answer)>, limit: usize) -> (Vec<String>, Option<String>) {
        let page = Page::of(Gathered { answers: parts, missing: Vec::new() }, limit);
        assert_eq!(page.total, 9 * page.frontends.len() as u64);
        let clients = page.connections.iter().map(|(place, _)| place.client.as_str().to_owned()).collect();
        (clients, page.next.map(|next| next.client.as_str().to_owned()))
    }

    #[test]
    fn a_page_is_put_together_from_the_parts_of_all() {
        let all = page(vec![part("f", &["a", "d"], false), part("g", &["b", "c"], false)], 4);
        assert_eq!(all, (vec!["a".into(), "b".into(), "c".into(), "d".into()], None));
        let first = page(vec![part("f", &["a", "d"], false), part("g", &["b", "c"], false)], 3);
        assert_eq!(first, (vec!["a".into(), "b".into(), "c".into()], Some("c".into())));
        // g has more behind b, which may stand before d.
        let unknown = page(vec![part("f", &["a", "d"], false), part("g", &["b"], true)], 4);
        assert_eq!(unknown, (vec!["a".into(), "b".into()], Some("b".into())));
        let failed = (Process { role: Role::Frontend, id: "h".into() }, Answer::NotUnderstood);
        assert_eq!(page(vec![failed], 4), (vec![], None));
    }

    #[test]
    fn a_cursor_is_read_back_and_nothing_else_is() {
        let place = ConnectionPlace {
            client: ClientId::new("a b/ü").unwrap(),
            frontend: "f".into(),
            connection: u64::MAX,
        };
        assert_eq!(place_of(&cursor_of(&place)).unwrap(), place);
        for wrong in ["", "x", "W10", "!!"] {
            assert!(place_of(wrong).is_err(), "{wrong}");
        }
    }
}
