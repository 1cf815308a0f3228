# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the parts of a qcow2 file lie, and ways to damage them (QEMU docs/interop/qcow2.txt)."""

import struct

OFFSET_MASK = 0x00FFFFFFFFFFFE00
COMPRESSED = 1 << 62
# name, offset in the header, bytes
HEADER_FIELDS = [
    ("magic", 0, 4), ("version", 4, 4), ("backing_file_offset", 8, 8), ("backing_file_size", 16, 4),
    ("cluster_bits", 20, 4), ("size", 24, 8), ("crypt_method", 32, 4), ("l1_size", 36, 4),
    ("l1_table_offset", 40, 8), ("refcount_table_offset", 48, 8), ("refcount_table_clusters", 56, 4),
    ("nb_snapshots", 60, 4), ("snapshots_offset", 64, 8), ("incompatible_features", 72, 8),
    ("compatible_features", 80, 8), ("autoclear_features", 88, 8), ("refcount_order", 96, 4),
    ("header_length", 100, 4), ("compression_type", 104, 1),
]  # fmt: skip
FIELD_AT = {name: (offset, length) for name, offset, length in HEADER_FIELDS}


class Qcow2:
    """An image file as bytes, to look into and to damage; save() writes it back."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as file:
            self.bytes = bytearray(file.read())

    def save(self):
        with open(self.path, "wb") as file:
            file.write(self.bytes)

    def header(self, name):
        offset, length = FIELD_AT[name]
        return int.from_bytes(self.bytes[offset : offset + length], "big")

    def set_header(self, name, value):
        offset, length = FIELD_AT[name]
        self.bytes[offset : offset + length] = (value % (1 << 8 * length)).to_bytes(length, "big")

    @property
    def cluster_size(self):
        return 1 << self.header("cluster_bits")

    @property
    def entry_size(self):
        """Bytes of an L2 entry: twice as many with subclusters (incompatible feature bit 4)."""
        return 16 if self.header("version") == 3 and self.header("incompatible_features") & 16 else 8

    def entry(self, place):
        return struct.unpack_from(">Q", self.bytes, place)[0]

    def set_entry(self, place, value):
        struct.pack_into(">Q", self.bytes, place, value % (1 << 64))

    def snapshot_places(self):
        """The offsets of the snapshot table's entries, and the end of the table."""
        place = self.header("snapshots_offset")
        for _ in range(self.header("nb_snapshots")):
            yield place
            id_size, name_size = struct.unpack_from(">HH", self.bytes, place + 12)
            extra_size = struct.unpack_from(">I", self.bytes, place + 36)[0]
            place = (place + 40 + extra_size + id_size + name_size + 7) // 8 * 8
        yield place

    def apply_snapshot(self, identifier):
        """Makes the header show what an internal snapshot holds; refcounts and bitmaps are then wrong."""
        for place in list(self.snapshot_places())[:-1]:
            l1_offset, l1_size, id_size = struct.unpack_from(">QIH", self.bytes, place)
            extra_size = struct.unpack_from(">I", self.bytes, place + 36)[0]
            if self.bytes[place + 40 + extra_size :][:id_size] != identifier:
                continue
            self.set_header("l1_table_offset", l1_offset)
            self.set_header("l1_size", l1_size)
            if extra_size >= 16:
                self.set_header("size", self.entry(place + 48))
            if self.header("version") == 3:
                self.set_header("autoclear_features", 0)
            return
        raise KeyError(identifier)

    def l1_tables(self):
        """(offset, entries) of the active L1 table and the snapshots'."""
        tables = [(self.header("l1_table_offset"), self.header("l1_size"))]
        for place in list(self.snapshot_places())[:-1]:
            tables.append(struct.unpack_from(">QI", self.bytes, place))
        return tables

    def l1_places(self):
        """Offsets of all L1 entries in the file."""
        return [offset + 8 * n for offset, size in self.l1_tables() for n in range(size) if offset + 8 * n + 8 <= len(self.bytes)]

    def l2_places(self):
        """Offsets of all L2 entries that are not zero."""
        places = []
        for table in {self.entry(place) & OFFSET_MASK for place in self.l1_places()} - {0}:
            end = min(table + self.cluster_size, len(self.bytes) - 7)
            places += [place for place in range(table, end, self.entry_size) if self.entry(place)]
        return sorted(places)

    def compressed(self):
        """(offset of the L2 entry, offset of the data, bytes of it at most) for each compressed cluster."""
        shift = 62 - (self.header("cluster_bits") - 8)
        for place in self.l2_places():
            entry = self.entry(place)
            if entry & COMPRESSED:
                offset = entry & ((1 << shift) - 1)
                sectors = (entry & ~(3 << 62)) >> shift
                yield place, offset, (sectors + 1) * 512 - offset % 512


def absurd_value(rng, bits, file_size):
    """A number that a parser should think about: ends of ranges, places at and past the end of the file."""
    values = [0, 1, 2, 3, 7, 8, 511, 512, file_size - 512, file_size - 1, file_size, file_size + 512, file_size & ~511,
              (1 << bits) - 1, 1 << (bits - 1), (1 << (bits - 1)) - 1, (1 << bits) - 512, rng.getrandbits(bits), 1 << rng.randrange(bits)]  # fmt: skip
    return rng.choice(values) % (1 << bits)


def flip_bits(data, rng, start, end, count):
    for _ in range(count):
        data[rng.randrange(start, min(end, len(data)))] ^= 1 << rng.randrange(8)


def damage_randomly(image, rng):
    """One way of damaging it, drawn at random; returns what was done, in words. Does not save."""
    data, size = image.bytes, len(image.bytes)
    entries = {"L1 entry": image.l1_places(), "L2 entry": image.l2_places()}
    snapshots = list(image.snapshot_places())
    way = rng.choice(["header bits", "header field", "header field", "snapshot bits", "snapshot field", "L1 entry",
                      "L2 entry", "L2 entry", "L2 bits", "cut", "hole", "noise", "compressed"])  # fmt: skip
    if way == "header bits":
        flip_bits(data, rng, 0, min(size, 512), rng.choice([1, 1, 2, 8]))
    elif way == "header field":
        name, _, length = rng.choice(HEADER_FIELDS)
        value = absurd_value(rng, 8 * length, size)
        image.set_header(name, value)
        return f"{way} {name} = {value:#x}"
    elif way == "snapshot bits" and len(snapshots) > 1:
        flip_bits(data, rng, snapshots[0], snapshots[-1], rng.choice([1, 1, 2, 8]))
    elif way == "snapshot field" and len(snapshots) > 1:
        offset, length = rng.choice([(0, 8), (8, 4), (12, 2), (14, 2), (16, 4), (32, 4), (36, 4), (40, 8), (48, 8)])
        place, value = rng.choice(snapshots[:-1]) + offset, absurd_value(rng, 8 * length, size)
        data[place : place + length] = value.to_bytes(length, "big")
        return f"{way} at {place} = {value:#x}"
    elif way in entries and entries[way]:
        place = rng.choice(entries[way])
        value = absurd_value(rng, 64, size) | rng.choice([0, 0, COMPRESSED, 1 << 63, 1])
        image.set_entry(place, value)
        return f"{way} at {place} = {value:#x}"
    elif way == "L2 bits" and entries["L2 entry"]:
        place = rng.choice(entries["L2 entry"])
        flip_bits(data, rng, place, place + image.entry_size, rng.choice([1, 2]))
    elif way == "cut":
        del data[rng.choice([rng.randrange(size), size - 1, max(0, size - rng.randrange(1, 1 << 17)), rng.randrange(min(size, 300))]) :]
    elif way == "hole":
        start = rng.randrange(size)
        data[start : start + 512] = bytes(len(data[start : start + 512]))
    elif way == "compressed" and list(image.compressed()):
        _, offset, length = rng.choice(list(image.compressed()))
        flip_bits(data, rng, offset, max(offset + 1, min(offset + length, size)), 3)
    else:
        start = rng.randrange(size)
        data[start : start + 64] = rng.randbytes(len(data[start : start + 64]))
    return way

