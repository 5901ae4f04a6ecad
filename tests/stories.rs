//! What the backend is for, and what must hold whatever fails, told as stories: each starts real NATS and
//! real processes of the built binary, and speaks to them over real sockets.

// A test stops at the first surprise, and sends signals to processes.
#![allow(clippy::unwrap_used, clippy::expect_used, unsafe_code)]

mod harness;

mod stories {
    mod administration;
    mod attack_table;
    mod attacks;
    mod backup;
    mod broken_on_purpose;
    mod budget_table;
    mod budgets;
    mod catch_up;
    mod changed_streams;
    mod clocks;
    mod closing;
    mod clumsy_clients;
    mod command_line;
    mod connections;
    mod cut_while_starting;
    mod damage;
    mod design_coverage;
    mod dev_command;
    mod dialects;
    mod drain;
    mod edge;
    mod histories;
    mod hook;
    mod hostile_fields;
    mod hostile_json;
    mod hostile_modules;
    mod idempotency;
    mod identity;
    mod incomplete_sync;
    mod inspector;
    mod javascript;
    mod killed_validator;
    mod limits;
    mod log;
    mod logs;
    mod many_partitions;
    mod many_slots;
    mod metrics;
    mod moving;
    mod nats_cluster;
    mod nats_outage;
    mod nats_secrets;
    mod nats_sick;
    mod nats_trust;
    mod nats_users;
    mod old_leader;
    mod operators_shell;
    mod permissions;
    mod pipelining;
    mod plain_http;
    mod power_cut;
    mod protocol;
    mod queue;
    mod readers;
    mod real_input;
    mod rejected_is_final;
    mod revocation;
    mod rule_codes;
    mod rules_command;
    mod rules_examples;
    mod rules_in_force;
    mod rules_permissions;
    mod schemas;
    mod siege;
    mod time_travel;
    mod tls;
    mod tokens;
    mod torn_reads;
    mod traces;
    mod true_signals;
    mod two_owners;
    mod unknown;
    mod what_networks_bring;
}
