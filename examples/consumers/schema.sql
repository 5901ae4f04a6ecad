-- What the consumers keep. Both use the same tables, each in a database of its own.

-- How far a consumer is. It changes in the same transaction as the effects, so the two never differ.
CREATE TABLE IF NOT EXISTS position (
  consumer text PRIMARY KEY,
  event_id bigint NOT NULL,
  -- SHA-256 of that event's record, to notice a log that was replaced.
  record_sha256 text NOT NULL
);

-- An effect that would show if it happened twice: a count.
CREATE TABLE IF NOT EXISTS activity (
  -- The partition's subject token: any text that a client chooses, in letters that PostgreSQL takes.
  partition text PRIMARY KEY,
  events bigint NOT NULL,
  last_event_id bigint NOT NULL
);

-- And the events. `json` keeps the text as it is; `jsonb` and `text` would refuse a zero byte (\u0000) in a client's text.
CREATE TABLE IF NOT EXISTS event (
  event_id bigint PRIMARY KEY,
  partition text NOT NULL,
  record json NOT NULL
);
