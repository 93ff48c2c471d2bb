-- Every address that was ever given, and to whom: it goes to that node again or to none. A lease is what holds now.

CREATE TABLE given_addresses (
  vni     INTEGER NOT NULL REFERENCES vnis (vni) ON DELETE CASCADE,
  prefix  TEXT NOT NULL,
  address TEXT NOT NULL,                         -- interface address, 10.7.0.5/24
  node    TEXT NOT NULL,
  PRIMARY KEY (vni, address)
);
CREATE INDEX given_addresses_by_node ON given_addresses (vni, node);
INSERT INTO given_addresses (vni, prefix, address, node) SELECT vni, prefix, address, node FROM leases;

-- Which devices are members of a VNI by themselves.

CREATE TABLE vni_selectors (
  vni      INTEGER NOT NULL REFERENCES vnis (vni) ON DELETE CASCADE,
  selector TEXT NOT NULL,                        -- tag:x or group:x
  PRIMARY KEY (vni, selector)
);
