-- One way of an interconnect: in `vni`, the addresses of `prefix` in VNI `other` have the names of `seen`, 1:1.

CREATE TABLE interconnects (
  vni        INTEGER NOT NULL REFERENCES vnis (vni) ON DELETE CASCADE,
  seen       TEXT NOT NULL,
  other      INTEGER NOT NULL REFERENCES vnis (vni) ON DELETE CASCADE,
  prefix     TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (vni, seen)
);
CREATE INDEX interconnects_by_other ON interconnects (other);
