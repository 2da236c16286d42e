-- Small columns first: what does not ask for a snapshot does not read its pages.
CREATE TABLE session (
    cluster           TEXT    NOT NULL,
    id                TEXT    NOT NULL,
    epoch             INTEGER NOT NULL,
    generation        INTEGER NOT NULL,
    owner_index       INTEGER,           -- NULL when released: politeness, the epoch is safety
    owner_incarnation INTEGER,
    unreleased        INTEGER NOT NULL DEFAULT 0, -- what the last claim found
    strikes           INTEGER NOT NULL DEFAULT 0,
    wake_at           INTEGER,           -- times are milliseconds since 1970, this one whole minutes
    app_version       INTEGER NOT NULL,
    version           INTEGER NOT NULL,
    codec             INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL,
    state             BLOB    NOT NULL,
    PRIMARY KEY (cluster, id)
) STRICT;

CREATE INDEX session_due ON session (cluster, wake_at, id) WHERE wake_at IS NOT NULL;
CREATE INDEX session_unused ON session (cluster, updated_at);

CREATE TABLE kept (
    cluster TEXT NOT NULL,
    session TEXT NOT NULL,
    name    TEXT NOT NULL,
    bytes   BLOB NOT NULL,
    PRIMARY KEY (cluster, session, name),
    FOREIGN KEY (cluster, session) REFERENCES session (cluster, id) ON DELETE CASCADE
) STRICT;
