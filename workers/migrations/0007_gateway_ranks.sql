-- How a tenant's gateways are preferred; one that is not named here has priority 100 and weight 100.
CREATE TABLE gateway_ranks (
  tenant   TEXT NOT NULL,
  node     TEXT NOT NULL,
  priority INTEGER NOT NULL,                     -- lower is preferred
  weight   INTEGER NOT NULL CHECK (weight >= 1), -- share of VNIs among those of one priority
  PRIMARY KEY (tenant, node)
);
