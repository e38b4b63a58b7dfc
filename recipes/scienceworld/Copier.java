package eexp;

import java.lang.reflect.Array;
import java.util.ArrayList;
import java.util.List;
import sun.misc.Unsafe;

/** Copies every object that can be reached from one, once each. */
final class Copier {
    private static final Unsafe UNSAFE = Shape.UNSAFE;

    private final IdentityTable originals = new IdentityTable();
    private final List<Object> copies = new ArrayList<>();

    Object copy(Object root) {
        Object copy = copyOf(root);
        for (int i = 0; i < originals.size(); i++) fill(originals.get(i), copies.get(i)); // the table grows meanwhile
        return copy;
    }

    /** Return the copy of an object: the object itself if it is shared, else one that is filled in its turn. */
    private Object copyOf(Object original) {
        if (original == null) return null;
        Class<?> type = original.getClass();
        if (!type.isArray() && Shape.of(type).shared) return original;
        int number = originals.find(original);
        if (number >= 0) return copies.get(number);
        originals.add(original);
        Object copy = type.isArray() ? Array.newInstance(type.getComponentType(), Array.getLength(original)) : allocate(type);
        copies.add(copy);
        return copy;
    }

    private void fill(Object from, Object to) {
        if (from instanceof Object[]) {
            Object[] items = (Object[]) from;
            for (int i = 0; i < items.length; i++) ((Object[]) to)[i] = copyOf(items[i]);
        } else if (from.getClass().isArray()) {
            System.arraycopy(from, 0, to, 0, Array.getLength(from));
        } else {
            Shape shape = Shape.of(from.getClass());
            for (long field : shape.longs) UNSAFE.putLong(to, field, UNSAFE.getLong(from, field));
            for (long field : shape.integers) UNSAFE.putInt(to, field, UNSAFE.getInt(from, field));
            for (long field : shape.shorts) UNSAFE.putShort(to, field, UNSAFE.getShort(from, field));
            for (long field : shape.bytes) UNSAFE.putByte(to, field, UNSAFE.getByte(from, field));
            for (long field : shape.references) UNSAFE.putObject(to, field, copyOf(UNSAFE.getObject(from, field)));
        }
    }

    private static Object allocate(Class<?> type) {
        try {
            return UNSAFE.allocateInstance(type);
        } catch (InstantiationException e) {
            throw new UnsupportedOperationException(e);
        }
    }
}
