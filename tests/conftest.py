"""Before anything loads OpenSSL: this process speaks suite KR1. One process, one TLS group; KR5 has processes of its own."""

from kairos.crypto.suites import KR1
from kairos_node.openssl_groups import fix_group

fix_group(KR1)
