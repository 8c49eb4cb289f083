\set feed random(0, 99)
SELECT version, id, kind, at, data FROM entry WHERE feed = 'page:' || :feed ORDER BY version DESC LIMIT 50;
