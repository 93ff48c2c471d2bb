-- Certificates that are refused before their time. An entry is kept as long as its certificate.
CREATE TABLE refused_certificates (
  serial       TEXT PRIMARY KEY REFERENCES certificates (serial) ON DELETE CASCADE,
  refused_from INTEGER NOT NULL,
  reason       TEXT NOT NULL
);
