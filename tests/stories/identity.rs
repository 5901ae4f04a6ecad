//! Tokens as identity providers make them by themselves, with claims of their own names: the configuration says which
//! claim is which, and a person may have many devices.

use serde_json::{Value, json};

use crate::harness::admin::Operator;
use crate::harness::backend::Backend;
use crate::harness::cluster::{Cluster, Frontend, Plan, binary};
use crate::harness::temp_dir;
use crate::harness::tokens::{SECRET, TestKey, key_set, now_s};
use crate::stories::tokens::{connect, connect_v1, submit};

/// A provider: what an operator configures for its tokens, and what it puts into one.
struct Provider {
    name: &'static str,
    settings: &'static [(&'static str, &'static str)],
    claims: Value,
    user: &'static str,
    /// A client id that the user may have.
    device: &'static str,
}

const ROLES: &str = r#"{ editor = ["read", "set:doc.*"] }"#;

fn providers() -> Vec<Provider> {
    let now = now_s();
    vec![
        Provider {
            name: "Auth0",
            settings: &[
                ("auth.issuer", "https://acme.eu.auth0.com/"),
                ("auth.audience", "https://api.acme.example"),
                ("auth.user_claim", "sub"),
                ("auth.client_ids", "{user}:*"),
                ("auth.permissions_claim", "permissions,scope"),
                ("auth.roles_claim", "https://acme.example/roles"),
            ],
            claims: json!({
                "iss": "https://acme.eu.auth0.com/", "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
                "aud": ["https://api.acme.example", "https://acme.eu.auth0.com/userinfo"],
                "azp": "my_client_id", "scope": "openid profile email", "gty": "password",
                "https://acme.example/roles": ["editor"], "iat": now, "exp": now + 3600,
            }),
            user: "auth0|5f7c8ec7c33c6c004bbafe82",
            device: "auth0|5f7c8ec7c33c6c004bbafe82:phone",
        },
        Provider {
            name: "Keycloak",
            settings: &[
                ("auth.issuer", "https://keycloak.example/realms/acme"),
                ("auth.audience", "account"),
                ("auth.user_claim", "sub"),
                ("auth.client_ids", "{user}/*"),
                ("auth.permissions_claim", "scope"),
                ("auth.roles_claim", "realm_access.roles,resource_access.insieme.web.roles"),
                ("auth.required_claims", r#"{ typ = ["Bearer"], azp = ["insieme.web"] }"#),
            ],
            claims: json!({
                "exp": now + 300, "iat": now, "auth_time": now, "jti": "onrtac:8a7e-4b", "typ": "Bearer",
                "iss": "https://keycloak.example/realms/acme", "aud": "account", "azp": "insieme.web",
                "sub": "0c5d2f2e-58a4-4c0e-8c7d-0d7f3f4f4f0a", "sid": "9f0c", "acr": "1",
                "allowed-origins": ["https://app.acme.example"],
                "realm_access": { "roles": ["offline_access", "uma_authorization", "default-roles-acme"] },
                "resource_access": {
                    "insieme.web": { "roles": ["editor"] }, "account": { "roles": ["manage-account"] },
                },
                "scope": "openid email profile", "email_verified": true, "preferred_username": "ann",
            }),
            user: "0c5d2f2e-58a4-4c0e-8c7d-0d7f3f4f4f0a",
            device: "0c5d2f2e-58a4-4c0e-8c7d-0d7f3f4f4f0a/desk",
        },
        Provider {
            name: "Entra",
            settings: &[
                ("auth.issuer", "https://login.microsoftonline.com/72f988bf/v2.0"),
                ("auth.audience", "6e74172b-be56-4843-9ff4-e66a39bb12e3"),
                ("auth.user_claim", "oid,sub"),
                ("auth.client_ids", "{user}:*"),
                ("auth.permissions_claim", "scp"),
                ("auth.required_claims", r#"{ tid = ["72f988bf"] }"#),
                // Its own role names may stand in the place of ours.
                ("auth.roles", r#"{ "Docs.Editor" = ["read", "set:doc.*"] }"#),
            ],
            claims: json!({
                "aud": "6e74172b-be56-4843-9ff4-e66a39bb12e3", "nbf": now, "iat": now, "exp": now + 4000,
                "iss": "https://login.microsoftonline.com/72f988bf/v2.0", "aio": "AXQAi/8IAAAA", "azp": "6e74",
                "azpacr": "0", "name": "Ann Example", "oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474",
                "preferred_username": "ann@acme.example", "rh": "I", "roles": ["Docs.Editor"],
                "scp": "access_as_user User.Read", "sub": "HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ",
                "tid": "72f988bf", "uti": "fqiBqXLPj0eQa82S-IYFAA", "ver": "2.0",
            }),
            user: "690222be-ff1a-4d56-abd1-7e4f7d38e474",
            device: "690222be-ff1a-4d56-abd1-7e4f7d38e474:7",
        },
        Provider {
            name: "Cognito",
            settings: &[
                ("auth.issuer", "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_abc"),
                ("auth.user_claim", "sub"),
                ("auth.client_ids", "{user}"),
                ("auth.permissions_claim", "scope"),
                ("auth.roles_claim", "cognito:groups"),
                ("auth.partition_claim", "custom:tenant"),
                // Its access tokens have no `aud`.
                ("auth.required_claims", r#"{ token_use = ["access"], client_id = ["57cb"] }"#),
            ],
            claims: json!({
                "sub": "aaaaaaaa-bbbb-cccc-dddd-example", "device_key": "aaaa", "cognito:groups": ["editor"],
                "iss": "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_abc", "version": 2,
                "client_id": "57cb", "origin_jti": "aaaaaaaa", "event_id": "64f513be", "token_use": "access",
                "scope": "phone openid profile resourceserver.1/appclient2 email", "auth_time": now,
                "exp": now + 3600, "iat": now, "jti": "bbbbbbbb", "username": "ann", "custom:tenant": "default",
            }),
            user: "aaaaaaaa-bbbb-cccc-dddd-example",
            device: "aaaaaaaa-bbbb-cccc-dddd-example",
        },
    ]
}

/// A backend that is configured for a provider, whose key this is.
fn configured(provider: &Provider, key: &TestKey, dir: &tempfile::TempDir) -> Plan {
    let file = dir.path().join("keys.json");
    std::fs::write(&file, key_set(&[key])).unwrap();
    let mut plan = Cluster::start().set("auth.jwks_file", file.display()).set("auth.roles", ROLES);
    for (key, value) in provider.settings {
        plan = plan.set(key, value);
    }
    plan
}

/// What both dialects answer; they must agree.
async fn both(frontend: &Frontend, client: &str, token: &str) -> Value {
    let (_, classic) = connect(frontend, client, "default", Some(token)).await;
    let (_, v1) = connect_v1(frontend, client, token).await;
    assert_eq!(classic["type"], v1["type"], "{classic} {v1}");
    assert_eq!(classic["payload"]["message"], v1["payload"]["message"], "{classic} {v1}");
    classic
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_token_of_every_provider_lets_its_user_in_in_both_dialects() {
    for provider in providers() {
        let (key, dir) = (TestKey::rsa("a").named("k-1"), temp_dir());
        let cluster = configured(&provider, &key, &dir).await;
        let frontend = &cluster.frontends[0];
        let token = key.sign(&provider.claims);
        let answer = both(frontend, provider.device, &token).await;
        assert_eq!(answer["type"], "connected", "{}: {answer}", provider.name);

        let (mut socket, _) = connect(frontend, provider.device, "default", Some(&token)).await;
        let set = |target: &str| json!({ "target": target, "value": 1 });
        assert_eq!(
            submit(&mut socket, "1", "set", set("doc.a")).await.0,
            "event_accepted",
            "{}",
            provider.name
        );
        assert_eq!(submit(&mut socket, "2", "set", set("other")).await.1, "forbidden", "{}", provider.name);
        let event = cluster.log("default").pop().unwrap();
        assert_eq!((&event["userId"], &event["clientId"]), (&json!(provider.user), &json!(provider.device)));
        // A fresh one keeps it.
        let mut fresh = provider.claims.clone();
        fresh["exp"] = json!(now_s() + 7200);
        socket.send("refresh_token", json!({ "token": key.sign(&fresh) })).await.unwrap();
        socket.expect_past_broadcasts("token_refreshed").await;

        // Somebody else's device it is not, nor the user of another.
        for stranger in ["phone", "auth0|5f7c8ec7c33c6c004bbafe82x:phone", "ann"] {
            let answer = both(frontend, stranger, &token).await;
            assert_eq!(answer["payload"]["code"], "auth_failed", "{}: {answer}", provider.name);
            let message = answer["payload"]["message"].as_str().unwrap();
            assert!(message.contains("has the form"), "{}: {message}", provider.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_mistyped_claim_is_named_to_the_client_and_once_in_the_log() {
    let provider = providers().remove(1);
    let (key, dir) = (TestKey::rsa("a").named("k-1"), temp_dir());
    let cluster = configured(&provider, &key, &dir).await;
    let frontend = &cluster.frontends[0];
    let with = |changes: &[(&str, Value)]| {
        let mut claims = provider.claims.clone();
        for (name, value) in changes {
            claims[*name] = value.clone();
        }
        key.sign(&claims)
    };
    // What is null is not there, and need not be.
    for optional in ["nbf", "jti", "iat", "scope"] {
        let answer = both(frontend, provider.device, &with(&[(optional, Value::Null)])).await;
        assert_eq!(answer["type"], "connected", "{optional}: {answer}");
    }
    let cases = [
        ("sub", Value::Null, "the token has no `sub`", "missing_claim"),
        ("sub", json!(5), "the token's `sub` is not a text", "mistyped_claim"),
        (
            "realm_access",
            json!({ "roles": { "editor": true } }),
            "the token's `realm_access.roles` is not a list of texts",
            "mistyped_claim",
        ),
        ("scope", json!(["read", 1]), "the token's `scope` is not a list of texts", "mistyped_claim"),
        ("azp", json!("other"), "the token's `azp` is not what is asked for here", "other_claim"),
        ("azp", Value::Null, "the token has no `azp`", "missing_claim"),
        ("exp", json!("soon"), "the token's `exp` is not a number of seconds", "mistyped_claim"),
    ];
    for (at, (name, value, message, reason)) in cases.into_iter().enumerate() {
        let client = format!("nobody-{at}");
        let token = with(&[(name, value)]);
        let (_, answer) = connect(frontend, &client, "default", Some(&token)).await;
        assert_eq!(answer["payload"]["message"], message, "{answer}");
        let (_, answer) = connect_v1(frontend, &client, &token).await;
        assert_eq!(answer["payload"]["message"], message, "{answer}");
        let logged = frontend.process.output();
        let lines: Vec<_> = logged.lines().filter(|line| line.contains(&client)).collect();
        let told: Vec<_> = lines.iter().filter(|line| line.contains(reason)).collect();
        assert_eq!(told.len(), 2, "once for each of two tokens: {lines:#?}");
        assert!(told.iter().all(|line| line.contains("INFO") && line.contains("k-1")), "{told:#?}");
        let secret_part = token.rsplit('.').next().unwrap();
        assert!(!logged.contains(secret_part), "a token was logged");
    }
}

#[test]
fn a_key_that_cannot_verify_anything_is_refused_where_it_is_configured() {
    let dir = temp_dir();
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let (pem, set) = (dir.path().join("p384.pem"), dir.path().join("keys.json"));
    std::fs::write(&pem, p384.public_key_pem()).unwrap();
    // A point that lies on no curve, in a set.
    let mut jwk = TestKey::ec().named("bent").jwk();
    jwk["x"] = jwk["y"].clone();
    std::fs::write(&set, json!({ "keys": [jwk] }).to_string()).unwrap();
    for (setting, file) in [("auth.public_key_file", &pem), ("auth.jwks_file", &set)] {
        let checked = binary()
            .args(["check-config", "--set", &format!("{setting}={}", file.display())])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(!checked.status.success() && said.contains(setting), "{setting}: {said}");
        assert!(said.contains("cannot verify anything"), "{setting}: {said}");
    }
}

#[test]
fn what_is_wrong_with_the_names_of_claims_is_found() {
    let cases = [
        ("auth.client_ids=*", "{user}:*"),
        ("auth.client_ids={user}*", "{user}:*"),
        ("auth.client_claim=[]", "auth.client_ids lets users choose"),
        ("auth.roles_claim=", "a claim without a name"),
    ];
    for (setting, says) in cases {
        let checked = binary().args(["check-config", "--set", setting]).output().unwrap();
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(!checked.status.success() && said.contains(says), "{setting}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_connections_are_found_closed_and_revoked_whatever_the_client() {
    let backend = Backend::start_with(&["auth.user_claim=sub", "auth.client_ids={user}:*"]).await;
    let token = |user: &str| {
        TestKey::secret(SECRET).sign(&json!({
            "sub": user, "permissions": ["read", "set"], "exp": now_s() + 600, "iat": now_s(),
        }))
    };
    let mut phone = backend.socket(0, "ann:phone", &token("ann")).await;
    phone.expect("connected").await;
    let mut desk = backend.v1_socket(1, "ann:desk", &token("ann")).await;
    desk.expect("connected").await;
    let mut bob = backend.socket(1, "bob:phone", &token("bob")).await;
    bob.expect("connected").await;
    // An operator's token need not name a client either.
    let ops = TestKey::secret(SECRET)
        .sign(&json!({ "sub": "ops", "permissions": ["admin"], "exp": now_s() + 600 }));
    let ops = Operator::new(&backend.address, Some(&ops));

    let found = ops.get("/users/ann").await.json();
    let clients: Vec<_> =
        found["connections"].as_array().unwrap().iter().map(|one| one["client"].clone()).collect();
    assert_eq!(
        (clients, &found["total"]),
        (vec![json!("ann:desk"), json!("ann:phone")], &json!(2)),
        "{found}"
    );

    let closed = ops.post("/users/ann/close", r#"{"reconnect":true}"#).await.json();
    assert_eq!((&closed["closed"], &closed["complete"]), (&json!(2), &json!(true)), "{closed}");
    phone.expect_error("unavailable").await;
    desk.expect_error("server_error").await;
    bob.expect_alive().await;

    let mut phone = backend.socket(0, "ann:phone", &token("ann")).await;
    phone.expect("connected").await;
    let revoked = ops.post("/users/ann/revoke", "").await.json();
    assert_eq!((&revoked["user"], &revoked["closed"]), (&json!("ann"), &json!(1)), "{revoked}");
    phone.expect_error("auth_failed").await;
    for (frontend, client) in [(0, "ann:phone"), (1, "ann:new")] {
        let error = backend.socket(frontend, client, &token("ann")).await.expect_error("auth_failed").await;
        assert_eq!(error["payload"]["message"], "the token has been revoked", "{error}");
    }
    bob.expect_alive().await;
    let listed = ops.get("/revocations").await.json();
    assert_eq!(listed["revocations"][0]["user"], "ann", "{listed}");
    assert_eq!(ops.ask("DELETE", "/users/ann/revoke", "", "").await.status, 200);
    backend.socket(0, "ann:phone", &token("ann")).await.expect("connected").await;
    ops.post(&format!("/users/{}/revoke", "x".repeat(257)), "").await.expect_problem(400, "bad_request");
}
