BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('serve_0002');
INSERT INTO "alembic_version" VALUES('cluster_0002');
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
INSERT INTO "api_keys" VALUES('598d8d4f','laptop','icw-598d8d4f','86d6831df7581dc31ef1484a98afb62f305ecfa6567db50746bc663b06bf4a43','infer workflow',4,'2026-11-01 12:30:00.250000',NULL,NULL);
INSERT INTO "api_keys" VALUES('abbca0f5','old','icw-abbca0f5','e4a1d3b0fd95c4e1b81a7d1cd2ed7f1845677a211edb5404a1426bab08763704','infer',NULL,'2026-11-01 12:30:00.250000','2026-11-01 12:30:00.250000',NULL);
CREATE TABLE cluster_egress (
	node VARCHAR(63) NOT NULL, 
	day DATE NOT NULL, 
	bytes BIGINT NOT NULL, 
	counter BIGINT NOT NULL, boot VARCHAR(64) DEFAULT '' NOT NULL, 
	CONSTRAINT pk_cluster_egress PRIMARY KEY (node, day)
);
INSERT INTO "cluster_egress" VALUES('n','2026-11-01',5,5,'b');
CREATE TABLE cluster_events (
	id INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	kind VARCHAR(32) NOT NULL, 
	message TEXT NOT NULL, 
	facts JSON NOT NULL, 
	CONSTRAINT pk_cluster_events PRIMARY KEY (id)
);
INSERT INTO "cluster_events" VALUES(1,'2026-11-01 12:30:00.250000','created','a machine','{"zone": "us-central1-a"}');
CREATE TABLE cluster_vms (
	name VARCHAR(63) NOT NULL, 
	zone VARCHAR(63) NOT NULL, 
	machine_type VARCHAR(63) NOT NULL, 
	market VARCHAR(7) NOT NULL, 
	disk_gb INTEGER NOT NULL, 
	max_run_seconds INTEGER, 
	compute_rate BIGINT, 
	disk_rate BIGINT, 
	address_rate BIGINT, 
	reserved_at DATETIME, 
	created_at DATETIME, 
	started_at DATETIME, 
	deadline DATETIME, 
	stopped_at DATETIME, 
	missing_since DATETIME, 
	ended_at DATETIME, 
	used_by JSON NOT NULL, 
	CONSTRAINT pk_cluster_vms PRIMARY KEY (name)
);
INSERT INTO "cluster_vms" VALUES('vm-1','us-central1-a','e2-highmem-4','spot',30,NULL,63800,NULL,NULL,NULL,'2026-11-01 12:30:00.250000',NULL,NULL,NULL,NULL,NULL,'{"job/1": 12.5}');
CREATE TABLE cluster_zone_state (
	id INTEGER NOT NULL, 
	state JSON NOT NULL, 
	updated_at DATETIME NOT NULL, 
	CONSTRAINT pk_cluster_zone_state PRIMARY KEY (id)
);
INSERT INTO "cluster_zone_state" VALUES(1,'{"zones": {}}','2026-11-01 12:30:00.250000');
CREATE TABLE model_aliases (
	id INTEGER NOT NULL, 
	alias VARCHAR(63) NOT NULL, 
	target VARCHAR(255) NOT NULL, 
	canary VARCHAR(255), 
	percent FLOAT, 
	created_at DATETIME NOT NULL, 
	undone_at DATETIME, 
	CONSTRAINT pk_model_aliases PRIMARY KEY (id), 
	CONSTRAINT ck_model_aliases_percent CHECK (percent > 0 AND percent < 100)
);
INSERT INTO "model_aliases" VALUES(1,'embedder','all-MiniLM-L6-v2',NULL,NULL,'2026-11-01 12:30:00.250000',NULL);
CREATE UNIQUE INDEX ix_api_keys_active_name ON api_keys (name) WHERE revoked_at IS NULL;
CREATE INDEX ix_model_aliases_alias ON model_aliases (alias);
CREATE INDEX ix_cluster_vms_ended_at ON cluster_vms (ended_at);
COMMIT;
