// A certified OAuth server, set up the way Entra is: token endpoint under a tenant's path, one client with a secret, one with a
// certificate. Says on standard output, a JSON object per line, where it listens and what an independent library (jose) thinks of each
// assertion that arrives.
//
//   node server.mjs TENANT SCOPE SECRET CERTIFICATE.pem

import { createHash, X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { importX509, jwtVerify } from 'jose';
import Provider from 'oidc-provider';

const [tenant, scope, secret, certificateFile] = process.argv.slice(2);
const pem = readFileSync(certificateFile, 'utf8');
const certificate = new X509Certificate(pem);
const thumbprint = createHash('sha256').update(certificate.raw).digest('base64url');
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const path = `/${tenant}/oauth2/v2.0/token`;
  const common = { grant_types: ['client_credentials'], redirect_uris: [], response_types: [], scope };
  const provider = new Provider(issuer, {
    routes: { token: path },
    scopes: [scope],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      introspection: { enabled: true },
    },
    clientAuthMethods: ['client_secret_post', 'private_key_jwt'],
    enabledJWA: { clientAuthSigningAlgValues: ['PS256'] },
    ttl: { ClientCredentials: 600 },
    clients: [
      { ...common, client_id: 'with-secret', client_secret: secret, token_endpoint_auth_method: 'client_secret_post' },
      {
        ...common,
        client_id: 'with-certificate',
        token_endpoint_auth_method: 'private_key_jwt',
        token_endpoint_auth_signing_alg: 'PS256',
        jwks: { keys: [{ ...certificate.publicKey.export({ format: 'jwk' }), alg: 'PS256', use: 'sig' }] },
      },
    ],
  });
  provider.use(async (ctx, next) => {
    await next();
    const assertion = ctx.oidc?.params?.client_assertion;
    if (assertion) say({ assertion: await judged(assertion, issuer + path) });
  });
  server.on('request', provider.callback());
  say({ authority: issuer });
});

// What is wrong with an assertion, as the documentation of Entra would have it; "good" when nothing is.
async function judged(assertion, endpoint) {
  try {
    const { payload, protectedHeader } = await jwtVerify(assertion, await importX509(pem, 'PS256'), {
      algorithms: ['PS256'],
      audience: endpoint,
      issuer: 'with-certificate',
      subject: 'with-certificate',
      typ: 'JWT',
      clockTolerance: 0,
      maxTokenAge: '10 minutes',
      requiredClaims: ['aud', 'exp', 'iss', 'jti', 'nbf', 'sub'],
    });
    if (protectedHeader['x5t#S256'] !== thumbprint) return 'another thumbprint';
    if (payload.exp - payload.nbf > 600) return 'valid for too long';
    return 'good';
  } catch (error) {
    return error.code ?? error.message;
  }
}
