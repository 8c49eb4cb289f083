-- The server generates the rows, which saves PostgreSQL the transfer and parsing of arrays.
\set id random(1, 9000000000000000000)
\set feed random(0, 999)
WITH claimed AS (INSERT INTO claim SELECT 'event-' || :id || '-' || n FROM generate_series(1, 100) n ON CONFLICT DO NOTHING RETURNING id) INSERT INTO entry (feed, id, kind, data) SELECT 'feed:' || (:feed + row_number() OVER ()) % 1000, id, 'visit', '{"text":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}' FROM claimed;
