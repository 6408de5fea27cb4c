BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('serve_0001');
CREATE TABLE api_keys (
	id VARCHAR(8) NOT NULL, 
	name VARCHAR(63) NOT NULL, 
	prefix VARCHAR(12) NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	scopes VARCHAR(255) NOT NULL, 
	max_concurrency INTEGER, 
	created_at DATETIME NOT NULL, 
	revoked_at DATETIME, 
	last_used_at DATETIME, 
	CONSTRAINT pk_api_keys PRIMARY KEY (id), 
	CONSTRAINT ck_api_keys_max_concurrency CHECK (max_concurrency > 0), 
	CONSTRAINT uq_api_keys_prefix UNIQUE (prefix)
);
INSERT INTO "api_keys" VALUES('856d8733','laptop','icw-856d8733','4b09ff8da193ec6ab9b080567c7bb803e68463710b661bf964b80a2324dbfd65','infer workflow',4,'2026-11-01 12:30:00.250000',NULL,NULL);
INSERT INTO "api_keys" VALUES('e506edfd','old','icw-e506edfd','3ab94488b8d9df9727e2930e39ebd0cb374d0e8d5dd1ea91820eb1eba0691d24','infer',NULL,'2026-11-01 12:30:00.250000','2026-11-01 12:30:00.250000',NULL);
CREATE UNIQUE INDEX ix_api_keys_active_name ON api_keys (name) WHERE revoked_at IS NULL;
COMMIT;
