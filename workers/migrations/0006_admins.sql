-- Scoped admin credentials. The root credential of `kairos fabric init` is none of them: its hash is a secret of the Worker.
CREATE TABLE admins (
  admin       TEXT PRIMARY KEY,
  tenant      TEXT NOT NULL,                     -- empty: all tenants
  name        TEXT NOT NULL,
  role        TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'tenant-admin')),
  secret_hash TEXT NOT NULL,                     -- SHA-256, base64
  created_at  INTEGER NOT NULL,
  created_by  TEXT NOT NULL,
  expires_at  INTEGER NOT NULL
);
CREATE INDEX admins_by_tenant ON admins (tenant, admin);
