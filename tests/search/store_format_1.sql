BEGIN TRANSACTION;
CREATE TABLE arrays (trial INTEGER NOT NULL, name TEXT NOT NULL, dtype TEXT NOT NULL, shape TEXT NOT NULL,
  data BLOB NOT NULL, PRIMARY KEY (trial, name));
INSERT INTO "arrays" VALUES(0,'validation','<f4','[2]',X'0000003F0000803E');
INSERT INTO "arrays" VALUES(0,'holdout','<f4','[0]',X'');
CREATE TABLE events (id INTEGER PRIMARY KEY, created REAL NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "meta" VALUES('format','1');
INSERT INTO "meta" VALUES('elapsed','1.5');
CREATE TABLE trials (number INTEGER PRIMARY KEY, status TEXT NOT NULL, created REAL NOT NULL, trial TEXT NOT NULL);
INSERT INTO "trials" VALUES(0,'completed',1.79552137910897874825e+09,'{"number":0,"plan":{"family":"lightgbm","params":{"n_estimators":100},"view":{"numeric":"raw","categories":"ordinal","max_onehot":32,"text":64},"selection":"none","fraction":1.0,"reduction":0,"hardware":{"threads":1,"device":"cpu","dtype":"float32"}},"rows":1000,"rung":0,"status":"completed","reason":"","measurement":{"error":0.375,"size_bytes":9000.0},"refit":{},"point":{"family":"lightgbm","n_estimators":100},"wall_seconds":0.5,"cpu_seconds":0.0}');
INSERT INTO "trials" VALUES(1,'timeout',1.79552137910947751998e+09,'{"number":1,"plan":{"family":"linear","params":{"C":0.1},"view":{"numeric":"raw","categories":"ordinal","max_onehot":32,"text":64},"selection":"none","fraction":1.0,"reduction":0,"hardware":{"threads":1,"device":"cpu","dtype":"float32"}},"rows":1000,"rung":0,"status":"timeout","reason":"after 3 s","measurement":{},"refit":{},"point":{"family":"linear","C":0.1},"wall_seconds":0.0,"cpu_seconds":0.0}');
COMMIT;
