-- Of each device only the present certificate is kept whole; of the others, until they end, what a refusal needs.
CREATE TABLE present_certificates (
  tenant TEXT NOT NULL,
  node   TEXT NOT NULL,
  der    TEXT NOT NULL,
  PRIMARY KEY (tenant, node)
);
INSERT INTO present_certificates (tenant, node, der)
  SELECT d.tenant, d.node, c.der FROM devices d JOIN certificates c ON c.serial = d.serial;

CREATE TABLE kept AS
  SELECT c.serial, c.tenant, c.node, c.not_before, c.not_after, r.refused_from, coalesce(r.reason, '') AS reason
  FROM certificates c LEFT JOIN refused_certificates r ON r.serial = c.serial WHERE c.not_after > unixepoch();
DROP TABLE refused_certificates;
DROP TABLE certificates;
CREATE TABLE certificates (
  serial       TEXT PRIMARY KEY,                 -- hex
  tenant       TEXT NOT NULL,
  node         TEXT NOT NULL,
  not_before   INTEGER NOT NULL,
  not_after    INTEGER NOT NULL,
  refused_from INTEGER,                          -- Unix seconds; NULL: it is not refused before its time
  reason       TEXT NOT NULL DEFAULT ''          -- of the refusal
);
INSERT INTO certificates (serial, tenant, node, not_before, not_after, refused_from, reason) SELECT * FROM kept;
DROP TABLE kept;
CREATE INDEX certificates_by_node ON certificates (tenant, node);
CREATE INDEX certificates_by_end ON certificates (not_after);
CREATE INDEX certificates_refused ON certificates (tenant, not_after) WHERE refused_from IS NOT NULL;
