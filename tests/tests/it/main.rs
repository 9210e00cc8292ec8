//! The integration tests: real servers, real binaries. One program, so that it links once; one module per subject.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

// Add your module here, and its file beside this one.
mod broker_faults;
mod broker_rabbitmq;
mod caps_batch;
mod caps_ordering;
mod caps_rate;
mod caps_total;
mod cases;
mod cases_broker;
mod cases_crash;
mod cases_duplicates;
mod cases_failures;
mod cases_pause;
mod compose;
mod event_shapes;
mod harness;
mod isolation_deadline;
mod isolation_limits;
mod isolation_stage;
mod isolation_walls;
mod lambda_bootstrap;
mod ledger_faults;
mod ledger_postgres;
mod outage_disk;
mod outage_ledger;
mod outage_matrix;
mod outage_stage;
mod outage_steps;
mod runtimes;
mod scale_bounds;
mod scale_schedule;
mod soak;
mod state_faults;
mod state_redis;
mod system_audit;
mod system_cost;
mod system_demo;
mod system_dlq;
mod system_drain;
mod system_errors;
mod system_idle;
mod system_lists;
mod system_metrics;
mod system_replies;
mod system_simulate;
mod system_stage;
mod system_takeover;
mod system_telemetry;
mod system_throughput;
mod system_worker;
mod worker_link;
mod worker_postgres;
