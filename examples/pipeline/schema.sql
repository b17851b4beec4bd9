-- What the consumer needs in its database: the extension, a role, and a table of the
-- application's own.  With psql, by a superuser: psql -v ON_ERROR_STOP=1 -f schema.sql shop
CREATE EXTENSION IF NOT EXISTS order_idempotency;
CREATE ROLE pipeline LOGIN;
SELECT order_idempotency.grant_application('pipeline');

CREATE TABLE stock (sku text PRIMARY KEY, count bigint NOT NULL);
INSERT INTO stock SELECT 'sku-' || n, 1000000 FROM generate_series(1, 50) n;
GRANT SELECT, UPDATE ON stock TO pipeline;
