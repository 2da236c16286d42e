-- Ids and clusters are compared as bytes: every build of PostgreSQL then sorts them alike, and the
-- order in which rows are locked never depends on a locale.
CREATE TABLE single_state.session (
  cluster text COLLATE "C" NOT NULL,
  id text COLLATE "C" NOT NULL,
  epoch bigint NOT NULL,
  generation bigint NOT NULL,
  -- NULL when released. Politeness only: what protects a row is its epoch.
  owner_index integer,
  owner_incarnation bigint,
  -- The owner before the last claim had not given the session up.
  unreleased boolean NOT NULL DEFAULT false,
  strikes integer NOT NULL DEFAULT 0,
  wake_at timestamptz,
  app_version bigint NOT NULL,
  version bigint NOT NULL,
  codec integer NOT NULL,
  state bytea NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (cluster, id)
) WITH (fillfactor = 70);

-- A snapshot is written far more often than it is read, and written whole: compressing each one
-- costs the database more processor time than the disk that it saves.
ALTER TABLE single_state.session ALTER COLUMN state SET STORAGE EXTERNAL;

-- The only index beside the key, and only over rows with work to do: an update that changes no
-- indexed column stays within its page.
CREATE INDEX session_wake_at ON single_state.session (cluster, wake_at, id)
  WHERE wake_at IS NOT NULL;

-- Large inputs that sessions keep beside their snapshots; written only by the transaction that has
-- saved the session's row.
CREATE TABLE single_state.kept (
  cluster text COLLATE "C" NOT NULL,
  id text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  bytes bytea NOT NULL,
  PRIMARY KEY (cluster, id, name),
  FOREIGN KEY (cluster, id) REFERENCES single_state.session ON DELETE CASCADE
);
ALTER TABLE single_state.kept ALTER COLUMN bytes SET STORAGE EXTERNAL;
