\set id random(1, 9000000000000000000)
\set feed random(0, 999)
WITH claimed AS (INSERT INTO claim VALUES ('event-' || :id) ON CONFLICT DO NOTHING RETURNING id) INSERT INTO entry (feed, id, kind, data) SELECT 'feed:' || :feed, id, 'visit', '{"text":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}' FROM claimed;
