#!/bin/sh
# How the archives here were made: Info-ZIP 3.0, 7-Zip 26.02, Python 3.11. Run in an empty folder.
set -e
export TZ=UTC
python3 - <<'P'
open('text', 'w').write(''.join(f'{i} squared is {i * i}\n' for i in range(2000)))
P
mkdir -p tree/dir/deep tree/empty
echo hello > tree/hello.txt
ln -s dir/run.sh tree/link
printf '#!/bin/sh\necho run\n' > tree/dir/run.sh
chmod 751 tree/dir/run.sh
chmod 700 tree/dir/deep
echo deep > tree/dir/deep/file
touch -d '2020-02-29T12:34:56Z' tree/hello.txt
(cd tree && cat hello.txt | zip -q ../stream.zip - && zip -q -y -r -X ../infozip.zip . && zip -q -y -r ../infozip-extra.zip .)
zip -q -fz zip64.zip tree/hello.txt
for method in Deflate Deflate64 BZip2; do 7z a -bso0 -mm=$method seven-$method.zip text; done
7z a -bso0 -mm=LZMA lzma.zip text
7z a -bso0 -mm=Deflate -mem=AES256 -psecret aes256.zip text tree/hello.txt
7z a -bso0 -mm=Copy -mem=AES128 -psecret aes128.zip tree/hello.txt
7z a -bso0 -mm=Deflate -mem=ZipCrypto -psecret zipcrypto.zip text
zip -q -P secret zipcrypto-stream.zip - < tree/hello.txt
python3 - <<'P'
import zipfile, struct, zlib
def archive(name): return zipfile.ZipFile(name, 'w')
with archive('names.zip') as z:
    for name in ['../../escape', '/absolute', 'a/../b', './dot', 'a//double', 'ok/..', 'C:/drive', 'x' * 300, 'é.txt', 'dup', 'dup', 'dup.txt', 'dup.txt', 'both', 'both/inside', 'nul']:
        z.writestr(zipfile.ZipInfo(name), name)
def raw(name, host, content=b'x', flags=0, extra=b'', attributes=0, out=[]):
    crc = zlib.crc32(content)
    local = struct.pack('<4sHHHHHIIIHH', b'PK\3\4', 20, flags, 0, 0, 0x5A21, crc, len(content), len(content), len(name), len(extra)) + name + extra + content
    central = struct.pack('<4sHHHHHHIIIHHHHHI', b'PK\1\2', 20 | host << 8, 20, flags, 0, 0, 0x5A21, crc, len(content), len(content), len(name), len(extra), 0, 0, 0, attributes)
    return local, central, name + extra
def write(path, members, before=b'', count=None, comment=b''):
    data, central = before, b''
    for local, record, tail in members:
        central += record + struct.pack('<I', len(data) - len(before)) + tail
        data += local
    at = len(data) - len(before)
    n = len(members) if count is None else count
    open(path, 'wb').write(data + central + struct.pack('<4sHHHHIIH', b'PK\5\6', 0, 0, n, n, len(central), at, len(comment)) + comment)
write('cp437.zip', [raw(b'caf\x82', 0), raw(b'back\\slash', 0), raw(b'back\\slash', 3)])
write('cp866.zip', [raw(n.encode('cp866'), 0) for n in ['Документы и фотографии.txt', 'Прошлогодний отчёт о работе.txt']])
field = struct.pack('<BI', 1, zlib.crc32(b'\x81')) + 'ü'.encode()
write('unicode-path.zip', [raw(b'\x81', 0, extra=struct.pack('<HH', 0x7075, len(field)) + field)])
write('special.zip', [raw(b'pipe', 3, content=b'', attributes=0o010644 << 16), raw(b'file', 3, attributes=0o100640 << 16), raw(b'readonly', 0, attributes=1), raw(b'dosdir', 0, content=b'', attributes=0x10)])
write('prefix.zip', [raw(b'file', 3)], before=b'#!/bin/sh\nexit 0\n')
write('count.zip', [raw(b'file', 3)], count=7)
write('comment.zip', [raw(b'file', 3)], comment=b'PK is not the end' * 100)
write('two-ends.zip', [raw(b'file', 3)], comment=b'PK\5\6 is not the end' * 100)
write('empty.zip', [])
local, central, name = raw(b'shown', 3)
write('mismatch.zip', [(local.replace(b'shown', b'other'), central, name), raw(b'good', 3)])
# Two members with the same bytes, and one that claims more content than deflate can hold.
local, central, name = raw(b'one', 3)
open('overlap.zip', 'wb').write(local + central + struct.pack('<I', 0) + b'one' + central + struct.pack('<I', 0) + b'two' + struct.pack('<4sHHHHIIH', b'PK\5\6', 0, 0, 2, 2, 2 * len(central) + 14, len(local), 0))
packed = zlib.compress(b'\0' * 1000)[2:-4]
local = struct.pack('<4sHHHHHIIIHH', b'PK\3\4', 20, 0, 8, 0, 0x5A21, 0, len(packed), 0xFFFFFFF0, 4, 0) + b'bomb' + packed
central = struct.pack('<4sHHHHHHIIIHHHHHI', b'PK\1\2', 0x314, 20, 0, 8, 0, 0x5A21, 0, len(packed), 0xFFFFFFF0, 4, 0, 0, 0, 0, 0)
write('claims.zip', [(local, central, b'bomb'), raw(b'good', 3)])
P
python3 - <<'P'
data = bytearray(open('seven-Deflate.zip', 'rb').read())
data[900] ^= 0x55
open('damaged.zip', 'wb').write(data)
open('torn.zip', 'wb').write(data[:len(data) - 30])
P
# The folder that the node's tests know: tests/it/zip.rs builds the same tree without an archive.
python3 - <<'P'
import zipfile
def member(z, name, content, mode, method=zipfile.ZIP_DEFLATED):
    info = zipfile.ZipInfo(name, (2024, 2, 29, 12, 0, 0))
    info.external_attr = mode << 16
    z.writestr(info, content, method)
with zipfile.ZipFile('photos.zip', 'w') as z:
    for d in range(5):
        member(z, f'year {d}/', '', 0o040750, zipfile.ZIP_STORED)
        for f in range(40):
            method = zipfile.ZIP_STORED if f % 20 == 0 else zipfile.ZIP_DEFLATED
            member(z, f'year {d}/bild-{f}-ä.jpg', f'{d} {f} ' * (f * f * 3 + f), 0o100755 if f % 7 == 0 else 0o100640, method)
    member(z, 'latest', 'year 4', 0o120777, zipfile.ZIP_STORED)
    member(z, 'empty', '', 0o100644)
with zipfile.ZipFile('photos-changed.zip', 'w') as z:
    member(z, 'empty', 'not empty', 0o100644)
    member(z, 'added', '', 0o100644)
P
rm -rf tree text
