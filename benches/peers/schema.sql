CREATE TABLE claim (id text PRIMARY KEY);
CREATE TABLE entry (
  feed text,
  version bigint GENERATED ALWAYS AS IDENTITY,
  id text NOT NULL,
  kind text NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  data jsonb NOT NULL,
  PRIMARY KEY (feed, version)
);
