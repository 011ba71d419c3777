"""acme2certifier over HTTPS on loopback, with a CA of its own: `second_ca.py FOLDER PORT`. Its configuration is FOLDER/acme_srv.cfg;
the CA's certificate, which signs the server's own as well, is written to FOLDER/ca.pem."""

import datetime
import ipaddress
import os
import ssl
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FOLDER, PORT = sys.argv[1], int(sys.argv[2])
NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)


def write(name, content):
    with open(os.path.join(FOLDER, name), "wb") as file:
        file.write(content)


def write_key(name, key):
    form = serialization.PrivateFormat.TraditionalOpenSSL
    write(name, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def named(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(subject, issuer, public_key):
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public_key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(NOW - DAY).not_valid_after(NOW + 365 * DAY)


def make_pki():
    key, name = ec.generate_private_key(ec.SECP256R1()), named("Second CA")
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    root = certificate(name, name, key.public_key())
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    root = root.add_extension(usage, critical=True)
    root = root.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    root = root.sign(key, hashes.SHA256())
    crl = x509.CertificateRevocationListBuilder().issuer_name(name).last_update(NOW).next_update(NOW + 30 * DAY)
    server_key = ec.generate_private_key(ec.SECP256R1())
    addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    server = certificate(named("127.0.0.1"), name, server_key.public_key())
    server = server.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
    server = server.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    server = server.sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    write_key("ca.key", key)
    write("crl.pem", crl.sign(key, hashes.SHA256()).public_bytes(pem))
    write_key("server.key", server_key)
    write("server.pem", server.public_bytes(pem))
    write("ca.pem", root.public_bytes(pem))


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Handler(WSGIRequestHandler):
    def address_string(self):
        return self.client_address[0]

    def log_message(self, format, *arguments):
        pass


def main():
    make_pki()
    os.environ["ACME_SRV_CONFIGFILE"] = os.path.join(FOLDER, "acme_srv.cfg")
    # It takes every challenge for good: validation is shown with another CA.
    os.environ["ACME2CERTIFIER_I_KNOW_THE_RISK"] = "1"
    from acme2certifier.share.acme2certifier_wsgi import application

    def over_https(environ, start_response):
        environ["wsgi.url_scheme"] = "https"
        return application(environ, start_response)

    server = make_server("127.0.0.1", PORT, over_https, server_class=Server, handler_class=Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(FOLDER, "server.pem"), os.path.join(FOLDER, "server.key"))
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


main()
