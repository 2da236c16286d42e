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

-- Snapshots are written whole and often. Measured on PostgreSQL 15 with MessagePack of 2 and 16 KiB,
-- processor time and log of one save: lz4 13 and 40 us, 1.8 and 12.6 kB; uncompressed 18 and 33 us,
-- 2.8 and 18.5 kB; the default pglz 22 and 197 us. So lz4 where the server has it, else none.
DO $$ BEGIN
  EXECUTE 'ALTER TABLE single_state.session ALTER COLUMN state SET COMPRESSION lz4';
EXCEPTION WHEN feature_not_supported OR syntax_error OR invalid_parameter_value THEN
  ALTER TABLE single_state.session ALTER COLUMN state SET STORAGE EXTERNAL;
END $$;

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
-- Most uploads are compressed already.
ALTER TABLE single_state.kept ALTER COLUMN bytes SET STORAGE EXTERNAL;
