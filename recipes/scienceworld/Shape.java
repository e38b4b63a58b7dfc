package eexp;

import java.lang.reflect.Field;
import java.lang.reflect.Modifier;
import java.util.ArrayList;
import java.util.List;
import sun.misc.Unsafe;

/** How the objects of one class are copied: shared, or field by field. */
final class Shape {
    static final Unsafe UNSAFE = unsafe();

    /** What an interface loads tasks with; it makes a new one for each, and no step uses it. It has 200,000 objects. */
    private static final String TASK_MAKER = "scienceworld.tasks.TaskMaker1";
    private static final String[] CONSTANT_PACKAGES = {"java.util.regex.", "java.math.", "java.time."};
    private static final String[] COPIED_PACKAGES = {"scienceworld.", "language.", "main.scala.", "scala.", "java.util."};
    private static final ClassValue<Shape> SHAPES = new ClassValue<>() {
        @Override
        protected Shape computeValue(Class<?> type) {
            return new Shape(type);
        }
    };

    final boolean shared;

    /** Offsets of the fields: those with references, and those of 8, 4, 2 and 1 bytes. */
    final long[] references, longs, integers, shorts, bytes;

    /** Return the shape of a class. Throws UnsupportedOperationException if its objects can be neither copied nor shared. */
    static Shape of(Class<?> type) {
        return SHAPES.get(type);
    }

    private Shape(Class<?> type) {
        List<Field> fields = fields(type);
        shared = isConstant(type, fields);
        if (!shared && !isCopied(type))
            throw new UnsupportedOperationException("objects of " + type.getName() + " cannot be copied");
        references = offsets(shared ? List.of() : fields, 0);
        longs = offsets(shared ? List.of() : fields, 8);
        integers = offsets(shared ? List.of() : fields, 4);
        shorts = offsets(shared ? List.of() : fields, 2);
        bytes = offsets(shared ? List.of() : fields, 1);
    }

    /** Whether the objects of a class never change: they are shared by all copies. */
    private static boolean isConstant(Class<?> type, List<Field> fields) {
        String name = type.getName();
        if (type == String.class || type == Class.class || type.isEnum() || type == Boolean.class) return true;
        if (type == Character.class || Number.class.isAssignableFrom(type) && name.startsWith("java.lang.")) return true;
        if (name.equals(TASK_MAKER)) return true;
        for (String start : CONSTANT_PACKAGES) if (name.startsWith(start)) return true;
        for (Field field : type.getDeclaredFields()) if (field.getName().equals("MODULE$")) return true;
        return fields.isEmpty(); // as a function that captures nothing
    }

    /** Whether the objects of a class are copied. A lambda that captures something is not: its fields cannot be written. */
    private static boolean isCopied(Class<?> type) {
        String name = type.getName();
        if (name.indexOf('/') >= 0) return false; // how the names of lambdas' classes differ from all others
        for (String start : COPIED_PACKAGES) if (name.startsWith(start)) return true;
        return false;
    }

    private static List<Field> fields(Class<?> type) {
        List<Field> fields = new ArrayList<>();
        for (Class<?> c = type; c != null; c = c.getSuperclass())
            for (Field field : c.getDeclaredFields())
                if (!Modifier.isStatic(field.getModifiers())) fields.add(field);
        return fields;
    }

    private static long[] offsets(List<Field> fields, int size) {
        return fields.stream().filter(field -> size(field.getType()) == size).mapToLong(UNSAFE::objectFieldOffset).toArray();
    }

    /** The bytes of a field; 0 for a reference. */
    private static int size(Class<?> type) {
        if (!type.isPrimitive()) return 0;
        if (type == long.class || type == double.class) return 8;
        if (type == int.class || type == float.class) return 4;
        return type == short.class || type == char.class ? 2 : 1;
    }

    private static Unsafe unsafe() {
        try {
            Field field = Unsafe.class.getDeclaredField("theUnsafe");
            field.setAccessible(true);
            return (Unsafe) field.get(null);
        } catch (ReflectiveOperationException e) {
            throw new ExceptionInInitializerError(e);
        }
    }
}
