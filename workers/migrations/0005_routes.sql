-- Networks behind endpoints. A route is in force while its endpoint advertises it and the operator has approved it.

CREATE TABLE routes (
  vni        INTEGER NOT NULL REFERENCES vnis (vni) ON DELETE CASCADE,
  tenant     TEXT NOT NULL,
  node       TEXT NOT NULL,                      -- the subnet router
  prefix     TEXT NOT NULL,
  advertised INTEGER NOT NULL CHECK (advertised IN (0, 1)),
  approved   INTEGER NOT NULL CHECK (approved IN (0, 1)),
  PRIMARY KEY (vni, prefix, node)
);
CREATE INDEX routes_by_node ON routes (tenant, node);
