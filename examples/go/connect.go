package main

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Configure reads a connection URL. With pooled, PgBouncer or another pooler in
// transaction mode stands between: each transaction may come to another session
// of the server, and what was prepared in the last one is not there.
//
// By itself pgx prepares each statement under a name and keeps it with the
// connection. CacheDescribe asks the server for the types of parameters and
// columns, remembers them in the client, and sends each call whole and without a
// name. It asks that the types do not change; those of order_idempotency are
// frozen for 1.x. Without code: ?default_query_exec_mode=cache_describe in the URL.
func Configure(url string, pooled bool) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	if pooled && config.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	return config, nil
}

// Connect makes a pool of connections for a URL.
func Connect(ctx context.Context, url string, pooled bool) (*pgxpool.Pool, error) {
	config, err := Configure(url, pooled)
	if err != nil {
		return nil, err
	}
	return pgxpool.NewWithConfig(ctx, config)
}
